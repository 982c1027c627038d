using System;
using System.IO;
using System.Text;

namespace Menagerie.Bridge
{
    /// <summary>What a bundle writes to the console, line by line to its log.</summary>
    internal sealed class LineBuffer
    {
        // A line is passed on in pieces of at most this many characters.
        private const int Longest = 1 << 16;

        private readonly ulong lane;
        private readonly string target;
        private readonly int level;
        private char[] line = new char[128];
        private int used;

        internal LineBuffer(ulong lane, string target, int level)
        {
            this.lane = lane;
            this.target = target;
            this.level = level;
        }

        internal void Append(char c)
        {
            lock (this)
            {
                if (c == '\n')
                {
                    Emit();
                    return;
                }
                if (used == Longest)
                    Emit();
                if (used == line.Length)
                    Array.Resize(ref line, used * 2);
                line[used++] = c;
            }
        }

        internal void Flush()
        {
            lock (this)
            {
                if (used > 0)
                    Emit();
            }
        }

        private void Emit()
        {
            int length = used > 0 && line[used - 1] == '\r' ? used - 1 : used;
            used = 0;
            ((NativeBackend)Backend.Current).Log(lane, level, target, new string(line, 0, length));
        }
    }

    /// <summary>Console.Out or Console.Error.</summary>
    internal sealed class GuestConsole : TextWriter
    {
        private readonly bool error;
        private TextWriter original;

        private GuestConsole(bool error)
        {
            this.error = error;
        }

        internal static void Install()
        {
            Console.SetOut(new GuestConsole(false));
            Console.SetError(new GuestConsole(true));
        }

        public override Encoding Encoding => Encoding.UTF8;

        // For threads that run for no bundle. Made when it is needed: opening
        // the console takes .NET some milliseconds.
        private TextWriter Original
        {
            get
            {
                if (original == null)
                    original = new StreamWriter(error ? Console.OpenStandardError() : Console.OpenStandardOutput()) { AutoFlush = true };
                return original;
            }
        }

        public override void Write(char value)
        {
            Lane lane = Lane.Current;
            if (lane == null)
                Original.Write(value);
            else
                (error ? lane.Error : lane.Out).Append(value);
        }

        public override void Write(char[] buffer, int index, int count)
        {
            for (int i = 0; i < count; i++)
                Write(buffer[index + i]);
        }

        public override void Write(string value)
        {
            if (value == null)
                return;
            foreach (char c in value)
                Write(c);
        }

        public override void Flush()
        {
            Lane lane = Lane.Current;
            if (lane == null)
                Original.Flush();
            else
                (error ? lane.Error : lane.Out).Flush();
        }
    }
}
