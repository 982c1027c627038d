using System;
using System.Reflection;

namespace Menagerie.Bridge
{
    // One class for each number of parameters, with a result and without.

    internal sealed class Function0<R> : Invoker
    {
        private Func<R> body;
        private Codec<R> result;

        internal override void Bind(MethodInfo method, object target, ParameterInfo[] infos, Codec[] codecs, Codec result)
        {
            body = (Func<R>)Delegate.CreateDelegate(typeof(Func<R>), target, method);
            this.result = (Codec<R>)result;
        }

        internal override void Run(Reader reader, int given, Writer writer)
        {
            result.Write(writer, body());
        }
    }

    internal sealed class Function1<A, R> : Invoker
    {
        private Func<A, R> body;
        private Parameter<A> a;
        private Codec<R> result;

        internal override void Bind(MethodInfo method, object target, ParameterInfo[] infos, Codec[] codecs, Codec result)
        {
            body = (Func<A, R>)Delegate.CreateDelegate(typeof(Func<A, R>), target, method);
            a = new Parameter<A>(codecs[0], infos[0]);
            this.result = (Codec<R>)result;
        }

        internal override void Run(Reader reader, int given, Writer writer)
        {
            A aValue = a.Read(reader, given);
            reader.Argument = -1;
            result.Write(writer, body(aValue));
        }
    }

    internal sealed class Function2<A, B, R> : Invoker
    {
        private Func<A, B, R> body;
        private Parameter<A> a;
        private Parameter<B> b;
        private Codec<R> result;

        internal override void Bind(MethodInfo method, object target, ParameterInfo[] infos, Codec[] codecs, Codec result)
        {
            body = (Func<A, B, R>)Delegate.CreateDelegate(typeof(Func<A, B, R>), target, method);
            a = new Parameter<A>(codecs[0], infos[0]);
            b = new Parameter<B>(codecs[1], infos[1]);
            this.result = (Codec<R>)result;
        }

        internal override void Run(Reader reader, int given, Writer writer)
        {
            A aValue = a.Read(reader, given);
            B bValue = b.Read(reader, given);
            reader.Argument = -1;
            result.Write(writer, body(aValue, bValue));
        }
    }

    internal sealed class Function3<A, B, C, R> : Invoker
    {
        private Func<A, B, C, R> body;
        private Parameter<A> a;
        private Parameter<B> b;
        private Parameter<C> c;
        private Codec<R> result;

        internal override void Bind(MethodInfo method, object target, ParameterInfo[] infos, Codec[] codecs, Codec result)
        {
            body = (Func<A, B, C, R>)Delegate.CreateDelegate(typeof(Func<A, B, C, R>), target, method);
            a = new Parameter<A>(codecs[0], infos[0]);
            b = new Parameter<B>(codecs[1], infos[1]);
            c = new Parameter<C>(codecs[2], infos[2]);
            this.result = (Codec<R>)result;
        }

        internal override void Run(Reader reader, int given, Writer writer)
        {
            A aValue = a.Read(reader, given);
            B bValue = b.Read(reader, given);
            C cValue = c.Read(reader, given);
            reader.Argument = -1;
            result.Write(writer, body(aValue, bValue, cValue));
        }
    }

    internal sealed class Function4<A, B, C, D, R> : Invoker
    {
        private Func<A, B, C, D, R> body;
        private Parameter<A> a;
        private Parameter<B> b;
        private Parameter<C> c;
        private Parameter<D> d;
        private Codec<R> result;

        internal override void Bind(MethodInfo method, object target, ParameterInfo[] infos, Codec[] codecs, Codec result)
        {
            body = (Func<A, B, C, D, R>)Delegate.CreateDelegate(typeof(Func<A, B, C, D, R>), target, method);
            a = new Parameter<A>(codecs[0], infos[0]);
            b = new Parameter<B>(codecs[1], infos[1]);
            c = new Parameter<C>(codecs[2], infos[2]);
            d = new Parameter<D>(codecs[3], infos[3]);
            this.result = (Codec<R>)result;
        }

        internal override void Run(Reader reader, int given, Writer writer)
        {
            A aValue = a.Read(reader, given);
            B bValue = b.Read(reader, given);
            C cValue = c.Read(reader, given);
            D dValue = d.Read(reader, given);
            reader.Argument = -1;
            result.Write(writer, body(aValue, bValue, cValue, dValue));
        }
    }

    internal sealed class Action0 : Invoker
    {
        private Action body;

        internal override void Bind(MethodInfo method, object target, ParameterInfo[] infos, Codec[] codecs, Codec result)
        {
            body = (Action)Delegate.CreateDelegate(typeof(Action), target, method);
        }

        internal override void Run(Reader reader, int given, Writer writer)
        {
            body();
            writer.Nil();
        }
    }

    internal sealed class Action1<A> : Invoker
    {
        private Action<A> body;
        private Parameter<A> a;

        internal override void Bind(MethodInfo method, object target, ParameterInfo[] infos, Codec[] codecs, Codec result)
        {
            body = (Action<A>)Delegate.CreateDelegate(typeof(Action<A>), target, method);
            a = new Parameter<A>(codecs[0], infos[0]);
        }

        internal override void Run(Reader reader, int given, Writer writer)
        {
            A aValue = a.Read(reader, given);
            reader.Argument = -1;
            body(aValue);
            writer.Nil();
        }
    }

    internal sealed class Action2<A, B> : Invoker
    {
        private Action<A, B> body;
        private Parameter<A> a;
        private Parameter<B> b;

        internal override void Bind(MethodInfo method, object target, ParameterInfo[] infos, Codec[] codecs, Codec result)
        {
            body = (Action<A, B>)Delegate.CreateDelegate(typeof(Action<A, B>), target, method);
            a = new Parameter<A>(codecs[0], infos[0]);
            b = new Parameter<B>(codecs[1], infos[1]);
        }

        internal override void Run(Reader reader, int given, Writer writer)
        {
            A aValue = a.Read(reader, given);
            B bValue = b.Read(reader, given);
            reader.Argument = -1;
            body(aValue, bValue);
            writer.Nil();
        }
    }

    internal sealed class Action3<A, B, C> : Invoker
    {
        private Action<A, B, C> body;
        private Parameter<A> a;
        private Parameter<B> b;
        private Parameter<C> c;

        internal override void Bind(MethodInfo method, object target, ParameterInfo[] infos, Codec[] codecs, Codec result)
        {
            body = (Action<A, B, C>)Delegate.CreateDelegate(typeof(Action<A, B, C>), target, method);
            a = new Parameter<A>(codecs[0], infos[0]);
            b = new Parameter<B>(codecs[1], infos[1]);
            c = new Parameter<C>(codecs[2], infos[2]);
        }

        internal override void Run(Reader reader, int given, Writer writer)
        {
            A aValue = a.Read(reader, given);
            B bValue = b.Read(reader, given);
            C cValue = c.Read(reader, given);
            reader.Argument = -1;
            body(aValue, bValue, cValue);
            writer.Nil();
        }
    }

    internal sealed class Action4<A, B, C, D> : Invoker
    {
        private Action<A, B, C, D> body;
        private Parameter<A> a;
        private Parameter<B> b;
        private Parameter<C> c;
        private Parameter<D> d;

        internal override void Bind(MethodInfo method, object target, ParameterInfo[] infos, Codec[] codecs, Codec result)
        {
            body = (Action<A, B, C, D>)Delegate.CreateDelegate(typeof(Action<A, B, C, D>), target, method);
            a = new Parameter<A>(codecs[0], infos[0]);
            b = new Parameter<B>(codecs[1], infos[1]);
            c = new Parameter<C>(codecs[2], infos[2]);
            d = new Parameter<D>(codecs[3], infos[3]);
        }

        internal override void Run(Reader reader, int given, Writer writer)
        {
            A aValue = a.Read(reader, given);
            B bValue = b.Read(reader, given);
            C cValue = c.Read(reader, given);
            D dValue = d.Read(reader, given);
            reader.Argument = -1;
            body(aValue, bValue, cValue, dValue);
            writer.Nil();
        }
    }
}
