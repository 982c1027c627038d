using System;

namespace Menagerie.Bridge
{
    internal sealed class BoolCodec : Codec<bool>
    {
        internal override string Name => "bool";

        internal override bool Read(Reader reader)
        {
            if (reader.Next() != Kind.Bool)
                throw reader.Unexpected(Name);
            return reader.Int != 0;
        }

        internal override void Write(Writer writer, bool value) => writer.Bool(value);
    }

    internal sealed class SByteCodec : Codec<sbyte>
    {
        internal override string Name => "sbyte";

        internal override sbyte Read(Reader reader) => (sbyte)reader.ReadInt(sbyte.MinValue, sbyte.MaxValue, Name);

        internal override void Write(Writer writer, sbyte value) => writer.Int(value);
    }

    internal sealed class ByteCodec : Codec<byte>
    {
        internal override string Name => "byte";

        internal override byte Read(Reader reader) => (byte)reader.ReadInt(byte.MinValue, byte.MaxValue, Name);

        internal override void Write(Writer writer, byte value) => writer.Int(value);
    }

    internal sealed class Int16Codec : Codec<short>
    {
        internal override string Name => "short";

        internal override short Read(Reader reader) => (short)reader.ReadInt(short.MinValue, short.MaxValue, Name);

        internal override void Write(Writer writer, short value) => writer.Int(value);
    }

    internal sealed class UInt16Codec : Codec<ushort>
    {
        internal override string Name => "ushort";

        internal override ushort Read(Reader reader) => (ushort)reader.ReadInt(ushort.MinValue, ushort.MaxValue, Name);

        internal override void Write(Writer writer, ushort value) => writer.Int(value);
    }

    internal sealed class Int32Codec : Codec<int>
    {
        internal override string Name => "int";

        internal override int Read(Reader reader) => (int)reader.ReadInt(int.MinValue, int.MaxValue, Name);

        internal override void Write(Writer writer, int value) => writer.Int(value);
    }

    internal sealed class UInt32Codec : Codec<uint>
    {
        internal override string Name => "uint";

        internal override uint Read(Reader reader) => (uint)reader.ReadInt(uint.MinValue, uint.MaxValue, Name);

        internal override void Write(Writer writer, uint value) => writer.Int(value);
    }

    internal sealed class Int64Codec : Codec<long>
    {
        internal override string Name => "long";

        internal override long Read(Reader reader) => reader.ReadInt(long.MinValue, long.MaxValue, Name);

        internal override void Write(Writer writer, long value) => writer.Int(value);
    }

    internal sealed class UInt64Codec : Codec<ulong>
    {
        internal override string Name => "ulong";

        internal override ulong Read(Reader reader)
        {
            Kind kind = reader.Next();
            if (kind == Kind.UInt)
                return reader.UInt;
            if (kind == Kind.Int && reader.Int >= 0)
                return (ulong)reader.Int;
            throw reader.Unexpected(Name);
        }

        internal override void Write(Writer writer, ulong value) => writer.UInt(value);
    }

    internal sealed class DoubleCodec : Codec<double>
    {
        internal override string Name => "double";

        internal override double Read(Reader reader)
        {
            Kind kind = reader.Next();
            if (kind == Kind.Float)
                return reader.Float;
            // An integer is a fine float, but only one that stays what it is:
            // past 2^53 not all do, and 2^63 is past the way back.
            double value = reader.Int;
            if (kind == Kind.Int && value < 9223372036854775808.0 && (long)value == reader.Int)
                return value;
            throw reader.Unexpected(Name);
        }

        internal override void Write(Writer writer, double value) => writer.Float(value);
    }

    internal sealed class SingleCodec : Codec<float>
    {
        internal override string Name => "float";

        internal override float Read(Reader reader)
        {
            Kind kind = reader.Next();
            if (kind == Kind.Float)
            {
                // Who declares a float wants its precision; its range is
                // another matter, at both ends.
                float value = (float)reader.Float;
                bool tooLarge = float.IsInfinity(value) && !double.IsInfinity(reader.Float);
                bool tooSmall = value == 0 && reader.Float != 0;
                if (!tooLarge && !tooSmall)
                    return value;
            }
            else if (kind == Kind.Int && Math.Abs((double)reader.Int) <= 16777216.0)
                return reader.Int;
            throw reader.Unexpected(Name);
        }

        internal override void Write(Writer writer, float value) => writer.Float(value);
    }

    internal sealed class CharCodec : Codec<char>
    {
        internal override string Name => "char";

        internal override char Read(Reader reader)
        {
            if (reader.Next() == Kind.String)
            {
                string text = reader.GetString();
                if (text.Length == 1)
                    return text[0];
                throw new DecodeException("expected char, got a string of another length than 1");
            }
            throw reader.Unexpected(Name);
        }

        internal override void Write(Writer writer, char value) => writer.String(value.ToString());
    }

    internal sealed class StringCodec : Codec<string>
    {
        internal override string Name => "string";

        internal override string Read(Reader reader)
        {
            Kind kind = reader.Next();
            if (kind == Kind.String)
                return reader.GetString();
            if (kind == Kind.Nil)
                return null;
            throw reader.Unexpected(Name);
        }

        internal override void Write(Writer writer, string value) => writer.String(value);
    }

    internal sealed unsafe class BytesCodec : Codec<byte[]>
    {
        internal override string Name => "byte[]";

        internal override byte[] Read(Reader reader)
        {
            Kind kind = reader.Next();
            if (kind == Kind.Bytes)
                return Copy(reader);
            if (kind == Kind.Nil)
                return null;
            throw reader.Unexpected(Name);
        }

        internal override void Write(Writer writer, byte[] value) => writer.Bytes(value);

        // Mono's libraries, which mcs compiles against, lack the method that
        // makes an array without zeroes that are overwritten at once.
        private static readonly Func<int, bool, byte[]> NewArray =
            (Func<int, bool, byte[]>)Delegate.CreateDelegate(
                typeof(Func<int, bool, byte[]>),
                typeof(GC).GetMethod("AllocateUninitializedArray").MakeGenericMethod(typeof(byte)));

        internal static byte[] Copy(Reader reader)
        {
            byte[] copy = NewArray(reader.Length, false);
            System.Runtime.InteropServices.Marshal.Copy((IntPtr)reader.Data, copy, 0, copy.Length);
            return copy;
        }
    }

    internal sealed class ViewCodec : Codec<View>
    {
        internal override string Name => "View";

        internal override bool HoldsViews => true;

        internal override View Read(Reader reader)
        {
            Kind kind = reader.Next();
            if (kind == Kind.Bytes)
                return reader.NewView();
            if (kind == Kind.Nil)
                return null;
            throw reader.Unexpected("bytes");
        }

        internal override void Write(Writer writer, View value) => writer.View(value);
    }

    internal sealed class NullableCodec<T> : Codec<T?> where T : struct
    {
        private readonly Codec<T> inner = Codecs.Of<T>();

        internal override string Name => inner.Name + "?";

        internal override T? Read(Reader reader)
        {
            if (reader.SkipNil())
                return null;
            return inner.Read(reader);
        }

        internal override void Write(Writer writer, T? value)
        {
            if (value.HasValue)
                inner.Write(writer, value.Value);
            else
                writer.Nil();
        }
    }
}
