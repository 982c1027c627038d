using System;
using System.Collections.Generic;

namespace Menagerie.Bridge
{
    internal sealed class ArrayCodec<T> : Codec<T[]>
    {
        private readonly Codec<T> element = Codecs.Of<T>();

        internal override string Name => element.Name + "[]";

        internal override bool HoldsViews => element.HoldsViews;

        internal override T[] Read(Reader reader)
        {
            if (reader.SkipNil())
                return null;
            T[] array = new T[reader.ReadList(Name)];
            reader.Enter();
            for (int i = 0; i < array.Length; i++)
                array[i] = element.Read(reader);
            reader.Leave();
            return array;
        }

        internal override void Write(Writer writer, T[] value)
        {
            if (value == null)
            {
                writer.Nil();
                return;
            }
            writer.ListHead(value.Length);
            writer.Enter();
            foreach (T item in value)
                element.Write(writer, item);
            writer.Leave();
        }
    }

    internal sealed class ListCodec<T> : Codec<List<T>>
    {
        private readonly Codec<T> element = Codecs.Of<T>();

        internal override string Name => "List<" + element.Name + ">";

        internal override bool HoldsViews => element.HoldsViews;

        internal override List<T> Read(Reader reader)
        {
            return Sequences.Read(reader, element, Name);
        }

        internal override void Write(Writer writer, List<T> value)
        {
            Sequences.Write(writer, element, value);
        }
    }

    /// <summary>One of the interfaces that List&lt;T&gt; implements.</summary>
    internal sealed class SequenceCodec<TSequence, T> : Codec<TSequence> where TSequence : IEnumerable<T>
    {
        private readonly Codec<T> element = Codecs.Of<T>();

        internal override string Name => "list of " + element.Name;

        internal override bool HoldsViews => element.HoldsViews;

        internal override TSequence Read(Reader reader)
        {
            return (TSequence)(object)Sequences.Read(reader, element, Name);
        }

        internal override void Write(Writer writer, TSequence value)
        {
            ICollection<T> counted = value as ICollection<T>;
            Sequences.Write(writer, element, counted ?? (value == null ? null : new List<T>(value)));
        }
    }

    internal static class Sequences
    {
        internal static List<T> Read<T>(Reader reader, Codec<T> element, string name)
        {
            if (reader.SkipNil())
                return null;
            int length = reader.ReadList(name);
            List<T> list = new List<T>(length);
            reader.Enter();
            for (int i = 0; i < length; i++)
                list.Add(element.Read(reader));
            reader.Leave();
            return list;
        }

        internal static void Write<T>(Writer writer, Codec<T> element, ICollection<T> value)
        {
            if (value == null)
            {
                writer.Nil();
                return;
            }
            int count = value.Count;
            writer.ListHead(count);
            writer.Enter();
            foreach (T item in value)
            {
                count--;
                element.Write(writer, item);
            }
            writer.Leave();
            Check(count);
        }

        // The head says how many there are; anything else would be read as
        // garbage on the other side.
        internal static void Check(int left)
        {
            if (left != 0)
                throw new UnsupportedValueException("a collection's Count is not the number of its elements; did another thread change it?");
        }
    }

    /// <summary>
    /// Keys of several types that differ in .NET and are the same elsewhere: 1, 1L
    /// and (byte)1; 'a' and "a".
    /// </summary>
    internal sealed class SameKeys
    {
        private readonly HashSet<object> keys = new HashSet<object>();

        /// <exception cref="UnsupportedValueException">The key was there before.</exception>
        internal void Refuse(object key)
        {
            if (key != null && !keys.Add(AsItCrosses(key)))
                throw new UnsupportedValueException("a map has the same key twice: " + key);
        }

        private static object AsItCrosses(object key)
        {
            if (key.GetType().IsEnum)
                return key;
            switch (Type.GetTypeCode(key.GetType()))
            {
                case TypeCode.SByte:
                case TypeCode.Byte:
                case TypeCode.Int16:
                case TypeCode.UInt16:
                case TypeCode.Int32:
                case TypeCode.UInt32:
                    return Convert.ToInt64(key);
                case TypeCode.UInt64:
                    ulong number = (ulong)key;
                    return number > long.MaxValue ? key : (long)number;
                case TypeCode.Single:
                    return (double)(float)key;
                case TypeCode.Char:
                    return key.ToString();
                default:
                    return key;
            }
        }
    }

    internal sealed class DictionaryCodec<TKey, TValue> : Codec<Dictionary<TKey, TValue>>
    {
        private readonly MapCodec<IDictionary<TKey, TValue>, TKey, TValue> map = new MapCodec<IDictionary<TKey, TValue>, TKey, TValue>();

        internal override string Name => map.Name;

        internal override bool HoldsViews => map.HoldsViews;

        internal override Dictionary<TKey, TValue> Read(Reader reader)
        {
            return map.ReadDictionary(reader);
        }

        internal override void Write(Writer writer, Dictionary<TKey, TValue> value)
        {
            map.Write(writer, value);
        }
    }

    /// <summary>One of the interfaces that Dictionary&lt;K, V&gt; implements.</summary>
    internal sealed class MapCodec<TMap, TKey, TValue> : Codec<TMap> where TMap : IEnumerable<KeyValuePair<TKey, TValue>>
    {
        private readonly Codec<TKey> key = Codecs.Of<TKey>();
        private readonly Codec<TValue> value = Codecs.Of<TValue>();

        internal override string Name => "Dictionary<" + key.Name + ", " + value.Name + ">";

        internal override bool HoldsViews => key.HoldsViews || value.HoldsViews;

        internal override TMap Read(Reader reader)
        {
            return (TMap)(object)ReadDictionary(reader);
        }

        internal Dictionary<TKey, TValue> ReadDictionary(Reader reader)
        {
            if (reader.SkipNil())
                return null;
            if (reader.Next() != Kind.Map)
                throw reader.Unexpected(Name);
            int length = reader.Length;
            Dictionary<TKey, TValue> map = new Dictionary<TKey, TValue>(length);
            reader.Enter();
            for (int i = 0; i < length; i++)
            {
                TKey k = key.Read(reader);
                if (k == null)
                    throw new DecodeException("a map's key is null, which a Dictionary cannot hold");
                if (map.ContainsKey(k))
                    throw new DecodeException("a map has the same key twice");
                map.Add(k, value.Read(reader));
            }
            reader.Leave();
            return map;
        }

        internal override void Write(Writer writer, TMap map)
        {
            if (map == null)
            {
                writer.Nil();
                return;
            }
            ICollection<KeyValuePair<TKey, TValue>> counted =
                map as ICollection<KeyValuePair<TKey, TValue>> ?? new List<KeyValuePair<TKey, TValue>>(map);
            int count = counted.Count;
            SameKeys same = typeof(TKey) == typeof(object) ? new SameKeys() : null;
            writer.MapHead(count);
            writer.Enter();
            foreach (KeyValuePair<TKey, TValue> pair in counted)
            {
                count--;
                if (same != null)
                    same.Refuse(pair.Key);
                key.Write(writer, pair.Key);
                value.Write(writer, pair.Value);
            }
            writer.Leave();
            Sequences.Check(count);
        }
    }
}
