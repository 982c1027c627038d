using System;
using Menagerie;

/// <summary>Says what serves it. After a change: scripts/setup-dotnet.</summary>
[Contract("handler@1")]
public sealed class Handler
{
    public string Get(string path) => $"{path}: served by .NET {Environment.Version}\n";
}
