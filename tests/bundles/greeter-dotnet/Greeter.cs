using System;
using Menagerie;

/// <summary>Says hello. Build it with: mcs -target:library -r:Menagerie.Guest.dll -out:greeter.dll Greeter.cs</summary>
[Contract("greeter@1")]
public sealed class Greeter
{
    public string Greet(string name) => $"Hello, {name}";

    public string[] GreetAll(string[] names) => Array.ConvertAll(names, Greet);
}
