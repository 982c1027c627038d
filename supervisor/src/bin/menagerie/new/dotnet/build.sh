#!/bin/sh
# Compiles the bundle: with mcs (Debian: mono-mcs) where there is no dotnet SDK.
# sdk/Menagerie.Guest.dll is what it is compiled against; it is not loaded.
set -eu
cd "$(dirname "$0")"
if command -v dotnet >/dev/null && [ -n "$(dotnet --list-sdks 2>/dev/null)" ]; then
    dotnet build --nologo --verbosity quiet --configuration Release --output obj/out {{name}}.csproj
    cp "obj/out/{{name}}.dll" .
elif command -v mcs >/dev/null; then
    mcs -target:library -optimize+ -r:sdk/Menagerie.Guest.dll "-out:{{name}}.dll" Bundle.cs
else
    echo "no C# compiler found: install a dotnet SDK, or mono-mcs" >&2
    exit 1
fi
