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
            Sequences.Write(writer, element, value, value?.Count);
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
            Sequences.Write(writer, element, value, (value as ICollection<T>)?.Count);
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

        // The count may be unknown.
        internal static void Write<T>(Writer writer, Codec<T> element, IEnumerable<T> value, int? count)
        {
            if (value == null)
            {
                writer.Nil();
                return;
            }
            long written = 0;
            long at = writer.BeginList(count);
            foreach (T item in value)
            {
                written++;
                element.Write(writer, item);
            }
            writer.EndList(at, count, written);
        }
    }

    /// <summary>
    /// Keys that differ in .NET and are the same elsewhere: 1, 1L and (byte)1; 'a' and
    /// "a"; two arrays of the same bytes. As they are written they do not differ.
    /// </summary>
    internal sealed unsafe class SameKeys : IEqualityComparer<SameKeys.Key>
    {
        // Where in the writer's buffer a key is.
        internal struct Key
        {
            internal long From;
            internal long Length;
        }

        private readonly Writer writer;
        private readonly HashSet<Key> keys;

        private SameKeys(Writer writer)
        {
            this.writer = writer;
            keys = new HashSet<Key>(this);
        }

        /// <summary>To look for them in a map; null if its own kind leaves none.</summary>
        internal static SameKeys Among<TKey, TValue>(object map, Writer writer)
        {
            bool isPlain = typeof(TKey) == typeof(string) || typeof(TKey).IsPrimitive;
            if (isPlain && map.GetType() == typeof(Dictionary<TKey, TValue>)
                && ((Dictionary<TKey, TValue>)map).Comparer == (object)EqualityComparer<TKey>.Default)
                return null;
            return new SameKeys(writer);
        }

        /// <summary>A key was written, from there on.</summary>
        /// <exception cref="UnsupportedValueException">It was there before.</exception>
        internal void Refuse(long from, object key)
        {
            if (!keys.Add(new Key { From = from, Length = writer.Used - from }))
                throw new UnsupportedValueException("a map has the same key twice: " + key);
        }

        bool IEqualityComparer<Key>.Equals(Key a, Key b)
        {
            if (a.Length != b.Length)
                return false;
            byte* x = writer.Start + a.From;
            byte* y = writer.Start + b.From;
            for (long i = 0; i < a.Length; i++)
            {
                if (x[i] != y[i])
                    return false;
            }
            return true;
        }

        // FNV-1a.
        int IEqualityComparer<Key>.GetHashCode(Key key)
        {
            uint hash = 2166136261;
            byte* at = writer.Start + key.From;
            for (long i = 0; i < key.Length; i++)
                hash = (hash ^ at[i]) * 16777619;
            return (int)hash;
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
            SameKeys same = SameKeys.Among<TKey, TValue>(map, writer);
            int? count = (map as ICollection<KeyValuePair<TKey, TValue>>)?.Count;
            long written = 0;
            long at = writer.BeginMap(count);
            foreach (KeyValuePair<TKey, TValue> pair in map)
            {
                written++;
                long k = writer.Used;
                key.Write(writer, pair.Key);
                if (same != null)
                    same.Refuse(k, pair.Key);
                value.Write(writer, pair.Value);
            }
            writer.EndMap(at, count, written);
        }
    }
}
