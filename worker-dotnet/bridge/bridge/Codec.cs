using System;
using System.Collections.Generic;
using System.Threading.Tasks;

namespace Menagerie.Bridge
{
    /// <summary>How values of one .NET type cross, where the type is known only at run time.</summary>
    internal abstract class Codec
    {
        /// <summary>The type, as messages name it.</summary>
        internal abstract string Name { get; }

        /// <summary>Whether it can be a parameter; a Task cannot.</summary>
        internal virtual bool IsReadable => true;

        /// <summary>Whether a value that was read may refer to the memory that it was read from.</summary>
        internal virtual bool HoldsViews => false;

        internal abstract object ReadBoxed(Reader reader);

        internal abstract void WriteBoxed(Writer writer, object value);
    }

    /// <summary>How values of one .NET type cross.</summary>
    internal abstract class Codec<T> : Codec
    {
        internal abstract T Read(Reader reader);

        internal abstract void Write(Writer writer, T value);

        internal override object ReadBoxed(Reader reader)
        {
            return Read(reader);
        }

        internal override void WriteBoxed(Writer writer, object value)
        {
            Write(writer, (T)value);
        }
    }

    /// <summary>
    /// The codecs that there are. Only types of .NET itself have one, never a
    /// bundle's own, so that none of them keeps a bundle from being collected.
    /// </summary>
    internal static class Codecs
    {
        // Types and not objects: most bundles need few of them, and the time to
        // compile each one's constructor is part of the first load.
        private static readonly Dictionary<Type, Type> Plain = new Dictionary<Type, Type>
        {
            { typeof(bool), typeof(BoolCodec) },
            { typeof(sbyte), typeof(SByteCodec) },
            { typeof(byte), typeof(ByteCodec) },
            { typeof(short), typeof(Int16Codec) },
            { typeof(ushort), typeof(UInt16Codec) },
            { typeof(int), typeof(Int32Codec) },
            { typeof(uint), typeof(UInt32Codec) },
            { typeof(long), typeof(Int64Codec) },
            { typeof(ulong), typeof(UInt64Codec) },
            { typeof(float), typeof(SingleCodec) },
            { typeof(double), typeof(DoubleCodec) },
            { typeof(char), typeof(CharCodec) },
            { typeof(string), typeof(StringCodec) },
            { typeof(byte[]), typeof(BytesCodec) },
            { typeof(View), typeof(ViewCodec) },
            { typeof(object), typeof(ObjectCodec) },
            { typeof(Task), typeof(TaskCodec) },
            { typeof(ValueTask), typeof(ValueTaskCodec) },
        };

        private static readonly Dictionary<Type, Type> Generic = new Dictionary<Type, Type>
        {
            { typeof(Nullable<>), typeof(NullableCodec<>) },
            { typeof(List<>), typeof(ListCodec<>) },
            { typeof(Dictionary<,>), typeof(DictionaryCodec<,>) },
            { typeof(Task<>), typeof(TaskCodec<>) },
            { typeof(ValueTask<>), typeof(ValueTaskCodec<>) },
        };

        // Interfaces that List<T> implements, and that Dictionary<K, V> does.
        private static readonly Type[] Lists =
        {
            typeof(IEnumerable<>), typeof(ICollection<>), typeof(IList<>),
            typeof(IReadOnlyCollection<>), typeof(IReadOnlyList<>),
        };

        private static readonly Type[] Maps = { typeof(IDictionary<,>), typeof(IReadOnlyDictionary<,>) };

        private static readonly Dictionary<Type, Codec> Known = new Dictionary<Type, Codec>();

        internal static Codec<T> Of<T>()
        {
            return (Codec<T>)Of(typeof(T));
        }

        /// <summary>The codec of a type.</summary>
        /// <exception cref="NotSupportedException">Values of the type cannot cross.</exception>
        internal static Codec Of(Type type)
        {
            lock (Known)
            {
                Codec codec;
                if (!Known.TryGetValue(type, out codec))
                {
                    codec = Make(type);
                    Known.Add(type, codec);
                }
                return codec;
            }
        }

        private static Codec Make(Type type)
        {
            Type plain;
            if (Plain.TryGetValue(type, out plain))
                return (Codec)Activator.CreateInstance(plain, true);
            if (type.IsArray && type.GetArrayRank() == 1)
                return Make(typeof(ArrayCodec<>), type.GetElementType());
            if (type.IsGenericType && !type.IsGenericTypeDefinition)
            {
                Type definition = type.GetGenericTypeDefinition();
                Type[] parts = type.GetGenericArguments();
                Type codec;
                if (Generic.TryGetValue(definition, out codec))
                    return Make(codec, parts);
                if (Array.IndexOf(Lists, definition) >= 0)
                    return Make(typeof(SequenceCodec<,>), type, parts[0]);
                if (Array.IndexOf(Maps, definition) >= 0)
                    return Make(typeof(MapCodec<,,>), type, parts[0], parts[1]);
            }
            throw new NotSupportedException("values of type " + type + " cannot cross to another language; use bool, the integers, float, double, string, byte[], arrays, List<T>, Dictionary<K, V> or object");
        }

        // The parts are looked up first: a part that cannot cross fails before
        // a generic type is made with it. A sequence's first argument is the
        // type itself, for which there is no codec yet.
        private static Codec Make(Type codec, params Type[] arguments)
        {
            int parts = codec.GetGenericArguments().Length;
            int own = codec == typeof(SequenceCodec<,>) || codec == typeof(MapCodec<,,>) ? 1 : 0;
            for (int i = own; i < parts; i++)
            {
                if (!Of(arguments[i]).IsReadable && codec != typeof(TaskCodec<>))
                    throw new NotSupportedException("a " + arguments[i] + " cannot be inside another value");
            }
            return (Codec)Activator.CreateInstance(codec.MakeGenericType(arguments), true);
        }
    }
}
