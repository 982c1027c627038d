using System;
using Menagerie;

/// <summary>
/// A bundle that the worker loads and calls while nobody waits, so that .NET
/// has compiled the bridge when the first real one comes.
/// </summary>
[Contract("rehearsal@1")]
public sealed class Rehearsal : IBundle
{
    public void Nothing()
    {
    }

    public long Inc(long n) => n + 1;

    public string Greet(string name) => $"Hello, {name}";

    public string[] GreetAll(string[] names) => Array.ConvertAll(names, Greet);

    public object Echo(object value) => value;

    public object Two(string text, object value) => value;

    public int Fail(string message) => throw new InvalidOperationException(message);

    public byte[] Blob(int n) => new byte[n];

    public void OnLoad(Context context)
    {
    }

    public object OnUnload() => "state";
}
