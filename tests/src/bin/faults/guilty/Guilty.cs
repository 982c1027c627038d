// Commits every fault that C# can.
using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Threading;
using Menagerie;

[Contract("guilty@1")]
public sealed class Guilty : IBundle
{
    private const string When = "never";

    private static int Deeper(int depth) => depth < 0 ? 0 : 1 + Deeper(depth + 1);

    public long Inc(long n) => n + 1;

    public void Commit(string fault)
    {
        switch (fault)
        {
            case "null":
                Marshal.ReadInt32(IntPtr.Zero);
                break;
            case "abort":
                Environment.FailFast("as it was asked to");
                break;
            case "stack":
                Deeper(0);
                break;
            case "exit0":
                Environment.Exit(0);
                break;
            case "exit1":
                Environment.Exit(1);
                break;
            case "thread":
                var thread = new Thread(() => { throw new InvalidOperationException("in a thread"); });
                thread.Start();
                thread.Join();
                break;
            case "memory":
                var kept = new List<byte[]>();
                while (true)
                {
                    var bytes = new byte[16 << 20];
                    for (int i = 0; i < bytes.Length; i += 4096)
                        bytes[i] = 1;
                    kept.Add(bytes);
                }
            case "spin":
                while (true)
                {
                }
            case "deadlock":
                var never = new ManualResetEventSlim(false);
                never.Wait();
                break;
            case "sleep":
                Thread.Sleep(600000);
                break;
            case "kill":
                Process.GetCurrentProcess().Kill();
                break;
            case "stderr":
                var line = new string('x', 65535);
                for (int i = 0; i < 1600; i++)
                    Console.Error.WriteLine(line);
                break;
        }
    }

    public void OnLoad(Context context)
    {
        if (When == "init")
            Environment.FailFast("in OnLoad");
    }

    public object OnUnload()
    {
        if (When == "unload")
            Environment.FailFast("in OnUnload");
        return null;
    }
}
