using System;
using System.Collections.Generic;
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

    // What follows is never called: .NET prepares a signature once, when the first
    // bundle that has it is loaded.

    public void UnusedInt(int n)
    {
    }

    public void UnusedLong(long n)
    {
    }

    public void UnusedDouble(double x)
    {
    }

    public void UnusedBool(bool b)
    {
    }

    public void UnusedText(string text)
    {
    }

    public void UnusedBytes(byte[] bytes)
    {
    }

    public void UnusedObject(object value)
    {
    }

    public int UnusedCount(string text) => text.Length;

    public bool UnusedTest(string text) => text.Length > 0;

    public double UnusedSum(double a, double b) => a + b;

    public long UnusedTotal(long a, long b) => a + b;

    public object UnusedNothing() => null;

    public object UnusedThree(string a, string b, object[] rest) => rest;

    public string UnusedTwo(string a, string b) => a + b;

    public List<string> UnusedList(List<object> values) => new List<string>(values.Count);

    public Dictionary<string, object> UnusedMap(Dictionary<string, object> values) => values;

    public void OnLoad(Context context)
    {
    }

    public object OnUnload() => "state";
}
