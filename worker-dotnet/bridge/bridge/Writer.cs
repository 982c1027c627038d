using System;
using System.Runtime.InteropServices;
using System.Text;

namespace Menagerie.Bridge
{
    /// <summary>
    /// Writes MessagePack, each value in its shortest form, to an unmanaged
    /// buffer that is used again and again: Rust reads it where it is.
    /// </summary>
    internal sealed unsafe class Writer : IDisposable
    {
        // Bytes of this size on are handed over where they are.
        internal const int LargeBytes = 4096;

        // Of a list or map.
        private const int LongestHead = 5;

        // A buffer that one large result has blown up is not kept.
        private const long Keep = 1 << 20;

        private static readonly UTF8Encoding Utf8 = new UTF8Encoding(false, true);

        private byte* start;
        private long used;
        private long capacity;
        private long limit = long.MaxValue;
        private int depth;

        // A large bytes result that ends the data but is not in the buffer.
        internal byte* Body;
        internal long BodyLength;
        internal IntPtr BodyPin;

        internal byte* Start => start;

        internal long Used => used;

        /// <summary>
        /// Empties it. More than the limit, in bytes, is not written: lists that share
        /// their parts may be small in .NET and endless here.
        /// </summary>
        internal void Reset(long limit = long.MaxValue)
        {
            this.limit = limit;
            used = 0;
            depth = 0;
            Body = null;
            BodyLength = 0;
            if (BodyPin != IntPtr.Zero)
                Unpin();
            if (capacity > Keep)
                Dispose();
        }

        public void Dispose()
        {
            Marshal.FreeHGlobal((IntPtr)start);
            start = null;
            capacity = 0;
        }

        /// <summary>Enters a list or map; each Enter has its Leave.</summary>
        internal void Enter()
        {
            if (++depth > Reader.MaxDepth)
                throw new UnsupportedValueException("a value is nested deeper than " + Reader.MaxDepth + " levels; does it contain itself?");
        }

        internal void Leave()
        {
            depth--;
        }

        internal void Nil()
        {
            Byte(0xc0);
        }

        internal void Bool(bool value)
        {
            Byte(value ? (byte)0xc3 : (byte)0xc2);
        }

        internal void Int(long value)
        {
            if (value >= 0)
                UInt((ulong)value);
            else if (value >= -32)
                Byte((byte)value);
            else if (value >= sbyte.MinValue)
                Marked(0xd0, (ulong)value, 1);
            else if (value >= short.MinValue)
                Marked(0xd1, (ulong)value, 2);
            else if (value >= int.MinValue)
                Marked(0xd2, (ulong)value, 4);
            else
                Marked(0xd3, (ulong)value, 8);
        }

        internal void UInt(ulong value)
        {
            if (value <= 0x7f)
                Byte((byte)value);
            else if (value <= byte.MaxValue)
                Marked(0xcc, value, 1);
            else if (value <= ushort.MaxValue)
                Marked(0xcd, value, 2);
            else if (value <= uint.MaxValue)
                Marked(0xce, value, 4);
            else
                Marked(0xcf, value, 8);
        }

        internal void Float(double value)
        {
            Marked(0xcb, *(ulong*)&value, 8);
        }

        internal void String(string value)
        {
            if (value == null)
            {
                Nil();
                return;
            }
            fixed (char* chars = value)
            {
                // A short string's head is one byte however it is encoded, so
                // it needs no pass of its own to count.
                if (value.Length <= 10)
                {
                    byte* head = Reserve(31);
                    int written = value.Length == 0 ? 0 : Encode(chars, value.Length, head + 1, 30);
                    *head = (byte)(0xa0 | written);
                    used += 1 + written;
                    return;
                }
                int length = Count(chars, value.Length);
                if (length <= 31)
                    Byte((byte)(0xa0 | length));
                else if (length <= byte.MaxValue)
                    Marked(0xd9, (ulong)length, 1);
                else if (length <= ushort.MaxValue)
                    Marked(0xda, (ulong)length, 2);
                else
                    Marked(0xdb, (ulong)length, 4);
                Encode(chars, value.Length, Reserve(length), length);
                used += length;
            }
        }

        private static int Count(char* chars, int length)
        {
            try
            {
                return Utf8.GetByteCount(chars, length);
            }
            catch (ArgumentException)
            {
                throw LoneSurrogate();
            }
        }

        private static int Encode(char* chars, int length, byte* to, int room)
        {
            try
            {
                return Utf8.GetBytes(chars, length, to, room);
            }
            catch (ArgumentException)
            {
                throw LoneSurrogate();
            }
        }

        private static UnsupportedValueException LoneSurrogate()
        {
            return new UnsupportedValueException("a string holds half a surrogate pair, which UTF-8 cannot express");
        }

        internal void Bytes(byte[] value)
        {
            if (value == null)
            {
                Nil();
                return;
            }
            BytesHead(value.LongLength);
            if (value.Length >= LargeBytes && depth == 0)
            {
                GCHandle pin = GCHandle.Alloc(value, GCHandleType.Pinned);
                BodyPin = GCHandle.ToIntPtr(pin);
                Body = (byte*)pin.AddrOfPinnedObject();
                BodyLength = value.LongLength;
            }
            else if (value.Length > 0)
            {
                Marshal.Copy(value, 0, (IntPtr)Reserve(value.Length), value.Length);
                used += value.Length;
            }
        }

        internal void View(View value)
        {
            if (value == null)
            {
                Nil();
                return;
            }
            byte* from = value.Start;
            BytesHead(value.Length);
            if (value.Length >= LargeBytes && depth == 0)
            {
                Body = from;
                BodyLength = value.Length;
            }
            else
            {
                Buffer.MemoryCopy(from, Reserve(value.Length), value.Length, value.Length);
                used += value.Length;
            }
        }

        /// <summary>Text as it is, with no head: an outcome that is no value.</summary>
        internal void Text(byte[] utf8)
        {
            Marshal.Copy(utf8, 0, (IntPtr)Reserve(utf8.Length), utf8.Length);
            used += utf8.Length;
        }

        internal void Unpin()
        {
            GCHandle.FromIntPtr(BodyPin).Free();
            BodyPin = IntPtr.Zero;
        }

        internal void ListHead(long length)
        {
            if (length <= 15)
                Byte((byte)(0x90 | (int)length));
            else if (length <= ushort.MaxValue)
                Marked(0xdc, (ulong)length, 2);
            else
                Marked(0xdd, (ulong)length, 4);
        }

        internal void MapHead(long length)
        {
            if (length <= 15)
                Byte((byte)(0x80 | (int)length));
            else if (length <= ushort.MaxValue)
                Marked(0xde, (ulong)length, 2);
            else
                Marked(0xdf, (ulong)length, 4);
        }

        /// <summary>
        /// Begins a list, whose length its End says if nobody knows it yet: it need not
        /// be in memory as a whole.
        /// </summary>
        internal long BeginList(int? length)
        {
            long at = used;
            if (length.HasValue)
                ListHead(length.Value);
            else
                LeaveRoom();
            Enter();
            return at;
        }

        internal void EndList(long at, int? length, long written)
        {
            Leave();
            if (length.HasValue)
            {
                Check(length.Value, written);
                return;
            }
            long end = used;
            used = at;
            ListHead(written);
            MoveUp(at + LongestHead, end);
        }

        /// <summary>As <see cref="BeginList"/>, of pairs.</summary>
        internal long BeginMap(int? length)
        {
            long at = used;
            if (length.HasValue)
                MapHead(length.Value);
            else
                LeaveRoom();
            Enter();
            return at;
        }

        internal void EndMap(long at, int? length, long written)
        {
            Leave();
            if (length.HasValue)
            {
                Check(length.Value, written);
                return;
            }
            long end = used;
            used = at;
            MapHead(written);
            MoveUp(at + LongestHead, end);
        }

        // The head says how many there are; anything else would be read as garbage on
        // the other side.
        private static void Check(long length, long written)
        {
            if (length != written)
                throw new UnsupportedValueException("a collection's Count is not the number of its elements; did another thread change it?");
        }

        private void LeaveRoom()
        {
            Reserve(LongestHead);
            used += LongestHead;
        }

        // What was written from there on follows its head, which may be shorter than
        // the room that was left for it.
        private void MoveUp(long from, long end)
        {
            if (from != used)
                Buffer.MemoryCopy(start + from, start + used, end - from, end - from);
            used += end - from;
        }

        private void BytesHead(long length)
        {
            if (length <= byte.MaxValue)
                Marked(0xc4, (ulong)length, 1);
            else if (length <= ushort.MaxValue)
                Marked(0xc5, (ulong)length, 2);
            else
                Marked(0xc6, (ulong)length, 4);
        }

        private void Byte(byte value)
        {
            *Reserve(1) = value;
            used++;
        }

        // A marker and the lowest bytes of a number, highest first.
        private void Marked(byte marker, ulong value, int bytes)
        {
            byte* to = Reserve(1 + bytes);
            *to = marker;
            for (int i = bytes; i > 0; i--)
            {
                to[i] = (byte)value;
                value >>= 8;
            }
            used += 1 + bytes;
        }

        private byte* Reserve(long length)
        {
            if (capacity - used < length)
                Grow(length);
            return start + used;
        }

        private void Grow(long length)
        {
            if (used + length > limit)
                throw new PayloadTooLargeException(used + length, limit);
            long wanted = Math.Min(Math.Max(Math.Max(256, capacity * 2), used + length), limit);
            start = (byte*)Marshal.ReAllocHGlobal((IntPtr)start, (IntPtr)wanted);
            capacity = wanted;
        }
    }
}
