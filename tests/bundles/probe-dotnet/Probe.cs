using System;
using System.Threading;
using Menagerie;

/// <summary>Does on demand all that a bundle can do, good and bad, for tests.</summary>
[Contract("probe@1")]
public sealed class Probe : IBundle
{
    private object loadedWith;
    private string directory;
    private object handOver;

    public long Inc(long n) => checked(n + 1);

    public object Echo(object value) => value;

    public void Fail(string message) => throw new InvalidOperationException(message);

    public void Crash() => Environment.FailFast("crash() was called");

    public void Spin()
    {
        while (true)
        {
        }
    }

    public void SleepMs(int n) => Thread.Sleep(n);

    public void Null()
    {
    }

    public byte[] Blob(int n)
    {
        var bytes = new byte[n];
        for (int i = 0; i < n; i++)
            bytes[i] = 0xAB;
        return bytes;
    }

    public object Call(string contract, string function, object[] args) => Host.Call(contract, function, args);

    /// <summary>How the call failed, or null if it did not.</summary>
    public string Caught(string contract, string function, object[] args)
    {
        try
        {
            Host.Call(contract, function, args);
            return null;
        }
        catch (CallError error)
        {
            return error.Kind;
        }
    }

    public object State() => loadedWith;

    public string Dir() => directory;

    public void SetState(object value) => handOver = value;

    // A result that cannot leave.
    public object Misfit() => DateTime.MinValue;

    public void Say(string text)
    {
        Console.WriteLine(text + " on stdout");
        Console.Error.WriteLine(text + " on stderr");
        Log.Warn(text + " in the log");
    }

    public void OnLoad(Context context)
    {
        loadedWith = context.State;
        directory = context.Directory;
    }

    public object OnUnload() => handOver;
}
