using System;
using System.Reflection;

namespace Menagerie.Bridge
{
    /// <summary>
    /// Runs one method: reads its arguments, calls it, writes its result. A
    /// typed delegate for up to four parameters, so that nothing is boxed;
    /// reflection beyond.
    /// </summary>
    internal abstract class Invoker
    {
        // Not a constructor: one with parameters is invoked by code that .NET
        // generates for each class, which takes it a millisecond.
        internal abstract void Bind(MethodInfo method, object target, ParameterInfo[] infos, Codec[] codecs, Codec result);

        internal abstract void Run(Reader reader, int given, Writer writer);
    }

    /// <summary>One parameter of a typed delegate.</summary>
    internal sealed class Parameter<T>
    {
        private readonly Codec<T> codec;
        private readonly int index;
        private readonly T fallback;

        internal Parameter(Codec codec, ParameterInfo info)
        {
            this.codec = (Codec<T>)codec;
            index = info.Position;
            if (info.HasDefaultValue && info.DefaultValue != null)
                fallback = (T)info.DefaultValue;
        }

        internal T Read(Reader reader, int given)
        {
            if (index >= given)
                return fallback;
            reader.Argument = index;
            return codec.Read(reader);
        }
    }

    internal static class Invokers
    {
        private static readonly Type[] Functions =
        {
            typeof(Function0<>), typeof(Function1<,>), typeof(Function2<,,>), typeof(Function3<,,,>), typeof(Function4<,,,,>),
        };

        private static readonly Type[] Actions =
        {
            typeof(Action0), typeof(Action1<>), typeof(Action2<,>), typeof(Action3<,,>), typeof(Action4<,,,>),
        };

        /// <summary>Binds a method; a null result codec means void.</summary>
        internal static Invoker Bind(MethodInfo method, object target, Codec[] codecs, Codec result)
        {
            ParameterInfo[] infos = method.GetParameters();
            Invoker invoker = (Invoker)Activator.CreateInstance(Class(method.ReturnType, infos), true);
            invoker.Bind(method, target, infos, codecs, result);
            return invoker;
        }

        private static Type Class(Type result, ParameterInfo[] infos)
        {
            if (infos.Length >= Functions.Length)
                return typeof(Reflected);
            bool isVoid = result == typeof(void);
            Type[] types = new Type[infos.Length + (isVoid ? 0 : 1)];
            for (int i = 0; i < infos.Length; i++)
                types[i] = infos[i].ParameterType;
            if (!isVoid)
                types[infos.Length] = result;
            Type invoker = (isVoid ? Actions : Functions)[infos.Length];
            return types.Length == 0 ? invoker : invoker.MakeGenericType(types);
        }
    }

    /// <summary>A method with many parameters.</summary>
    internal sealed class Reflected : Invoker
    {
        private const BindingFlags NoWrapping = (BindingFlags)0x02000000; // DoNotWrapExceptions

        private MethodInfo method;
        private object target;
        private Codec[] codecs;
        private Codec result;
        private object[] fallbacks;

        internal override void Bind(MethodInfo method, object target, ParameterInfo[] infos, Codec[] codecs, Codec result)
        {
            this.method = method;
            this.target = target;
            this.codecs = codecs;
            this.result = result;
            fallbacks = Array.ConvertAll(infos, p => p.HasDefaultValue ? p.DefaultValue : null);
        }

        internal override void Run(Reader reader, int given, Writer writer)
        {
            object[] arguments = (object[])fallbacks.Clone();
            for (int i = 0; i < given; i++)
            {
                reader.Argument = i;
                arguments[i] = codecs[i].ReadBoxed(reader);
            }
            reader.Argument = -1;
            object value = method.Invoke(target, NoWrapping, null, arguments, null);
            if (result == null)
                writer.Nil();
            else
                result.WriteBoxed(writer, value);
        }
    }
}
