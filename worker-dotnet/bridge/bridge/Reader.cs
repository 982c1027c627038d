using System;
using System.Collections.Generic;
using System.Text;

namespace Menagerie.Bridge
{
    /// <summary>What was read is not what was expected.</summary>
    internal sealed class DecodeException : Exception
    {
        internal DecodeException(string message) : base(message)
        {
        }
    }

    internal enum Kind
    {
        Nil,
        Bool,
        Int,
        UInt, // above long.MaxValue
        Float,
        String,
        Bytes,
        List,
        Map,
    }

    /// <summary>
    /// Reads MessagePack from unmanaged memory: a token at a time into fields,
    /// so that no value is boxed on its way to a typed parameter. Pointers
    /// instead of spans, which Debian's mcs (C# 7) cannot compile.
    /// </summary>
    internal sealed unsafe class Reader
    {
        internal const int MaxDepth = 128;

        private static readonly UTF8Encoding Utf8 = new UTF8Encoding(false, true);

        private byte* at;
        private byte* end;
        private int depth;

        // The token that was read last.
        internal Kind Kind;
        internal long Int;
        internal ulong UInt;
        internal double Float;
        internal byte* Data;
        internal int Length;

        /// <summary>The argument that is being read, or -1: the body runs.</summary>
        internal int Argument = -1;

        /// <summary>The views that were handed out since the last reset.</summary>
        internal readonly List<View> Views = new List<View>();

        internal void Reset(byte* data, long length)
        {
            at = data;
            end = data + length;
            depth = 0;
        }

        internal void CloseViews()
        {
            foreach (View view in Views)
                view.Close();
            Views.Clear();
        }

        internal View NewView()
        {
            View view = new View(Data, Length);
            Views.Add(view);
            return view;
        }

        /// <summary>Enters a list or map; each Enter has its Leave.</summary>
        internal void Enter()
        {
            if (++depth > MaxDepth)
                throw new DecodeException("values are nested deeper than " + MaxDepth + " levels");
        }

        internal void Leave()
        {
            depth--;
        }

        internal Kind Next()
        {
            byte* p = Take(1);
            byte b = *p;
            if (b <= 0x7f)
                return SetInt(b);
            if (b >= 0xe0)
                return SetInt((sbyte)b);
            if (b <= 0x8f)
                return SetContainer(Kind.Map, b & 0x0f, 2);
            if (b <= 0x9f)
                return SetContainer(Kind.List, b & 0x0f, 1);
            if (b <= 0xbf)
                return SetData(Kind.String, b & 0x1f);
            switch (b)
            {
                case 0xc0:
                    return Kind = Kind.Nil;
                case 0xc2:
                    Int = 0;
                    return Kind = Kind.Bool;
                case 0xc3:
                    Int = 1;
                    return Kind = Kind.Bool;
                case 0xc4:
                    return SetData(Kind.Bytes, *Take(1));
                case 0xc5:
                    return SetData(Kind.Bytes, U16());
                case 0xc6:
                    return SetData(Kind.Bytes, U32());
                case 0xca:
                    uint single = U32();
                    Float = *(float*)&single;
                    return Kind = Kind.Float;
                case 0xcb:
                    ulong bits = U64();
                    Float = *(double*)&bits;
                    return Kind = Kind.Float;
                case 0xcc:
                    return SetInt(*Take(1));
                case 0xcd:
                    return SetInt(U16());
                case 0xce:
                    return SetInt(U32());
                case 0xcf:
                    UInt = U64();
                    if (UInt <= long.MaxValue)
                        return SetInt((long)UInt);
                    return Kind = Kind.UInt;
                case 0xd0:
                    return SetInt((sbyte)*Take(1));
                case 0xd1:
                    return SetInt((short)U16());
                case 0xd2:
                    return SetInt((int)U32());
                case 0xd3:
                    return SetInt((long)U64());
                case 0xd9:
                    return SetData(Kind.String, *Take(1));
                case 0xda:
                    return SetData(Kind.String, U16());
                case 0xdb:
                    return SetData(Kind.String, U32());
                case 0xdc:
                    return SetContainer(Kind.List, U16(), 1);
                case 0xdd:
                    return SetContainer(Kind.List, U32(), 1);
                case 0xde:
                    return SetContainer(Kind.Map, U16(), 2);
                case 0xdf:
                    return SetContainer(Kind.Map, U32(), 2);
                default:
                    throw new DecodeException("the MessagePack type 0x" + b.ToString("x2") + " is not supported");
            }
        }

        /// <summary>The string of the token that was read last.</summary>
        internal string GetString()
        {
            if (Length == 0)
                return "";
            try
            {
                return Utf8.GetString(Data, Length);
            }
            catch (ArgumentException)
            {
                throw new DecodeException("a string is not valid UTF-8");
            }
        }

        internal long ReadInt(long min, long max, string expected)
        {
            if (Next() == Kind.Int && Int >= min && Int <= max)
                return Int;
            throw Unexpected(expected);
        }

        /// <summary>Passes over the head of a list of this length, if it is one of a byte and comes next.</summary>
        internal bool SkipShortList(int length)
        {
            if (at == end || length > 0x0f || *at != (0x90 | length))
                return false;
            at++;
            return true;
        }

        /// <summary>The head of a list; the caller reads its elements.</summary>
        internal int ReadList(string expected)
        {
            if (Next() != Kind.List)
                throw Unexpected(expected);
            return Length;
        }

        /// <summary>Whether the next value is null; passes over it then.</summary>
        internal bool SkipNil()
        {
            if (at >= end || *at != 0xc0)
                return false;
            at++;
            return true;
        }

        /// <summary>That something else than the last token was expected.</summary>
        internal DecodeException Unexpected(string expected)
        {
            return new DecodeException("expected " + expected + ", got " + Describe());
        }

        private string Describe()
        {
            switch (Kind)
            {
                case Kind.Nil: return "null";
                case Kind.Bool: return "bool";
                case Kind.Int: return "the integer " + Int;
                case Kind.UInt: return "the integer " + UInt;
                case Kind.Float: return "the float " + Float.ToString("R", System.Globalization.CultureInfo.InvariantCulture);
                case Kind.String: return "string";
                case Kind.Bytes: return "bytes";
                case Kind.List: return "list";
                default: return "map";
            }
        }

        private Kind SetInt(long value)
        {
            Int = value;
            return Kind = Kind.Int;
        }

        private Kind SetData(Kind kind, uint length)
        {
            Data = Take(length);
            Length = (int)length;
            return Kind = kind;
        }

        private Kind SetData(Kind kind, int length)
        {
            return SetData(kind, (uint)length);
        }

        // Each element takes a byte at least, so a length beyond the rest of
        // the data is refused before anyone allocates for it.
        private Kind SetContainer(Kind kind, long length, int perElement)
        {
            if (length * perElement > end - at || length > int.MaxValue)
                throw Truncated();
            Length = (int)length;
            return Kind = kind;
        }

        private byte* Take(uint length)
        {
            byte* start = at;
            if (length > end - start || length > int.MaxValue)
                throw Truncated();
            at = start + length;
            return start;
        }

        private ushort U16()
        {
            byte* p = Take(2);
            return (ushort)(p[0] << 8 | p[1]);
        }

        private uint U32()
        {
            byte* p = Take(4);
            return (uint)p[0] << 24 | (uint)p[1] << 16 | (uint)p[2] << 8 | p[3];
        }

        private ulong U64()
        {
            ulong high = U32();
            return high << 32 | U32();
        }

        private static DecodeException Truncated()
        {
            return new DecodeException("the data ends in the middle of a value");
        }
    }
}
