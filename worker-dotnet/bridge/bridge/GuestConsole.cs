using System;
using System.IO;
using System.Reflection;
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

        internal void Append(string text)
        {
            lock (this)
            {
                foreach (char c in text)
                    Append(c);
            }
        }

        private void Append(char c)
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

    /// <summary>
    /// Console.Out or Console.Error, for all bundles. Nothing here waits for a monitor
    /// that a bundle can hold: a line is put together first, and appended at once.
    /// </summary>
    internal sealed class GuestConsole : TextWriter
    {
        private static readonly GuestConsole OurOut = new GuestConsole(false);
        private static readonly GuestConsole OurError = new GuestConsole(true);

        // Where Console keeps them. Its SetOut would put a wrapper around ours, each of
        // whose methods takes the wrapper's monitor, which is what Console.Out returns.
        private static readonly FieldInfo OutField = Field("s_out");
        private static readonly FieldInfo ErrorField = Field("s_error");

        // What Console returns for ours: themselves, or those wrappers.
        private static TextWriter shownOut;
        private static TextWriter shownError;

        private readonly bool error;
        private TextWriter original;

        private GuestConsole(bool error)
        {
            this.error = error;
        }

        /// <summary>Sees to it that what bundles write is theirs, whatever one of them has set.</summary>
        internal static void Restore()
        {
            if (shownOut == null || Console.Out != shownOut)
                shownOut = Show(OurOut);
            if (shownError == null || Console.Error != shownError)
                shownError = Show(OurError);
        }

        private static TextWriter Show(GuestConsole ours)
        {
            FieldInfo field = ours.error ? ErrorField : OutField;
            if (field != null)
            {
                field.SetValue(null, ours);
                return ours;
            }
            if (ours.error)
                Console.SetError(ours);
            else
                Console.SetOut(ours);
            return ours.error ? Console.Error : Console.Out;
        }

        private static FieldInfo Field(string name)
        {
            FieldInfo field = typeof(Console).GetField(name, BindingFlags.Static | BindingFlags.NonPublic);
            return field != null && field.FieldType == typeof(TextWriter) ? field : null;
        }

        public override Encoding Encoding => Encoding.UTF8;

        // For threads that run for no bundle. Made when it is needed: opening
        // the console takes .NET some milliseconds.
        private TextWriter Original
        {
            get
            {
                if (original == null)
                    original = Synchronized(new StreamWriter(error ? Console.OpenStandardError() : Console.OpenStandardOutput()) { AutoFlush = true });
                return original;
            }
        }

        private LineBuffer Lines
        {
            get
            {
                Lane lane = Lane.Current;
                return lane == null ? null : error ? lane.Error : lane.Out;
            }
        }

        public override void Write(char value)
        {
            Write(value.ToString());
        }

        public override void Write(char[] buffer, int index, int count)
        {
            Write(new string(buffer, index, count));
        }

        public override void Write(string value)
        {
            if (value == null)
                return;
            LineBuffer lines = Lines;
            if (lines == null)
                Original.Write(value);
            else
                lines.Append(value);
        }

        // The base class writes a value and its line's end one after the other, and
        // another thread might come between.
        public override void WriteLine() => Write(NewLine);

        public override void WriteLine(string value) => Write(value + NewLine);

        public override void WriteLine(char value) => Write(value + NewLine);

        public override void WriteLine(char[] buffer) => Write(new string(buffer) + NewLine);

        public override void WriteLine(char[] buffer, int index, int count) => Write(new string(buffer, index, count) + NewLine);

        public override void WriteLine(bool value) => WriteLine(value ? bool.TrueString : bool.FalseString);

        public override void WriteLine(int value) => WriteLine(value.ToString(FormatProvider));

        public override void WriteLine(uint value) => WriteLine(value.ToString(FormatProvider));

        public override void WriteLine(long value) => WriteLine(value.ToString(FormatProvider));

        public override void WriteLine(ulong value) => WriteLine(value.ToString(FormatProvider));

        public override void WriteLine(float value) => WriteLine(value.ToString(FormatProvider));

        public override void WriteLine(double value) => WriteLine(value.ToString(FormatProvider));

        public override void WriteLine(decimal value) => WriteLine(value.ToString(FormatProvider));

        public override void WriteLine(object value)
        {
            IFormattable formattable = value as IFormattable;
            WriteLine(formattable == null ? value?.ToString() : formattable.ToString(null, FormatProvider));
        }

        public override void Flush()
        {
            LineBuffer lines = Lines;
            if (lines == null)
                Original.Flush();
            else
                lines.Flush();
        }
    }
}
