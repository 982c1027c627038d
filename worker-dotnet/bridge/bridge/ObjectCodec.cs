using System;
using System.Collections;
using System.Collections.Generic;

namespace Menagerie.Bridge
{
    /// <summary>
    /// Any value. It arrives as null, bool, long (ulong above long.MaxValue),
    /// double, string, byte[], List&lt;object&gt;, and Dictionary&lt;string, object&gt;,
    /// or Dictionary&lt;object, object&gt; if a key is no string.
    /// </summary>
    internal sealed class ObjectCodec : Codec<object>
    {
        internal override string Name => "object";

        internal override object Read(Reader reader)
        {
            switch (reader.Next())
            {
                case Kind.Nil: return null;
                case Kind.Bool: return reader.Int != 0;
                case Kind.Int: return reader.Int;
                case Kind.UInt: return reader.UInt;
                case Kind.Float: return reader.Float;
                case Kind.String: return reader.GetString();
                case Kind.Bytes: return BytesCodec.Copy(reader);
                case Kind.List: return ReadList(reader);
                default: return ReadMap(reader);
            }
        }

        private List<object> ReadList(Reader reader)
        {
            int length = reader.Length;
            List<object> list = new List<object>(length);
            reader.Enter();
            for (int i = 0; i < length; i++)
                list.Add(Read(reader));
            reader.Leave();
            return list;
        }

        private object ReadMap(Reader reader)
        {
            int length = reader.Length;
            Dictionary<string, object> named = new Dictionary<string, object>(length);
            Dictionary<object, object> any = null;
            reader.Enter();
            for (int i = 0; i < length; i++)
            {
                object key = Read(reader);
                if (key == null)
                    throw new DecodeException("a map's key is null, which a Dictionary cannot hold");
                string name = key as string;
                if (name == null && any == null)
                {
                    any = new Dictionary<object, object>(length);
                    foreach (KeyValuePair<string, object> pair in named)
                        any.Add(pair.Key, pair.Value);
                }
                if (any == null ? named.ContainsKey(name) : any.ContainsKey(key))
                    throw new DecodeException("a map has the same key twice");
                object value = Read(reader);
                if (any == null)
                    named.Add(name, value);
                else
                    any.Add(key, value);
            }
            reader.Leave();
            return (object)any ?? named;
        }

        internal override void Write(Writer writer, object value)
        {
            if (value == null)
            {
                writer.Nil();
                return;
            }
            string text = value as string;
            if (text != null)
            {
                writer.String(text);
                return;
            }
            if (value.GetType().IsEnum || !WriteScalar(writer, value))
                WriteCollection(writer, value);
        }

        private static bool WriteScalar(Writer writer, object value)
        {
            switch (Type.GetTypeCode(value.GetType()))
            {
                case TypeCode.Boolean:
                    writer.Bool((bool)value);
                    return true;
                case TypeCode.SByte:
                    writer.Int((sbyte)value);
                    return true;
                case TypeCode.Byte:
                    writer.Int((byte)value);
                    return true;
                case TypeCode.Int16:
                    writer.Int((short)value);
                    return true;
                case TypeCode.UInt16:
                    writer.Int((ushort)value);
                    return true;
                case TypeCode.Int32:
                    writer.Int((int)value);
                    return true;
                case TypeCode.UInt32:
                    writer.Int((uint)value);
                    return true;
                case TypeCode.Int64:
                    writer.Int((long)value);
                    return true;
                case TypeCode.UInt64:
                    writer.UInt((ulong)value);
                    return true;
                case TypeCode.Single:
                    writer.Float((float)value);
                    return true;
                case TypeCode.Double:
                    writer.Float((double)value);
                    return true;
                case TypeCode.Char:
                    writer.String(value.ToString());
                    return true;
                default:
                    return false;
            }
        }

        private void WriteCollection(Writer writer, object value)
        {
            // By the type itself: arrays of sbyte, and of enums that are bytes, can be cast too.
            if (value.GetType() == typeof(byte[]))
            {
                writer.Bytes((byte[])value);
                return;
            }
            View view = value as View;
            if (view != null)
            {
                writer.View(view);
                return;
            }
            IDictionary map = value as IDictionary;
            if (map != null)
            {
                WriteMap(writer, map);
                return;
            }
            IEnumerable sequence = value as IEnumerable;
            // One of several dimensions enumerates as if it had one.
            Array array = value as Array;
            if (sequence == null || array != null && array.Rank != 1)
                throw new UnsupportedValueException("a value of type " + value.GetType() + " cannot cross to another language");
            WriteList(writer, sequence);
        }

        private void WriteMap(Writer writer, IDictionary map)
        {
            SameKeys same = SameKeys.Among<string, object>(map, writer);
            int count = map.Count;
            long written = 0;
            long at = writer.BeginMap(count);
            foreach (DictionaryEntry pair in map)
            {
                written++;
                long key = writer.Used;
                Write(writer, pair.Key);
                if (same != null)
                    same.Refuse(key, pair.Key);
                Write(writer, pair.Value);
            }
            writer.EndMap(at, count, written);
        }

        private void WriteList(Writer writer, IEnumerable sequence)
        {
            int? count = (sequence as ICollection)?.Count;
            long written = 0;
            long at = writer.BeginList(count);
            foreach (object item in sequence)
            {
                written++;
                Write(writer, item);
            }
            writer.EndList(at, count, written);
        }
    }
}
