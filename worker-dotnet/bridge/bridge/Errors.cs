using System;
using System.Globalization;
using System.Reflection;

namespace Menagerie
{
    /// <summary>A value of a type, or in a shape, that cannot cross to another language.</summary>
    // In this namespace because guests see the name in their errors.
    public sealed class UnsupportedValueException : Exception
    {
        internal UnsupportedValueException(string message) : base(message)
        {
        }
    }
}

namespace Menagerie.Bridge
{
    /// <summary>A step of a load failed, for this reason.</summary>
    internal sealed class LoadFailure : Exception
    {
        internal readonly string Step;

        internal LoadFailure(string step, Exception reason) : base(step, reason)
        {
            Step = step;
        }
    }

    /// <summary>A value takes more bytes than may cross.</summary>
    internal sealed class PayloadTooLargeException : Exception
    {
        /// <summary>As much of it as was to be written when it was clear.</summary>
        internal readonly long Size;

        internal PayloadTooLargeException(long size, long limit)
            : base("the payload of " + size + " bytes is over the limit of " + limit + " bytes")
        {
            Size = size;
        }
    }

    /// <summary>A class that does not fit what contracts can be.</summary>
    internal sealed class ContractException : Exception
    {
        internal ContractException(string message) : base(message)
        {
        }
    }

    /// <summary>Exceptions, as Rust reads them.</summary>
    internal static class Errors
    {
        private const int MaxInner = 16;

        // Causes of causes multiply: so many in all.
        private const int MaxCauses = 64;

        /// <summary>[type, message, stack, code, help, url, [inner, …]]</summary>
        internal static void Write(Writer writer, Exception error)
        {
            int left = MaxCauses;
            Write(writer, error, 0, ref left);
        }

        private static void Write(Writer writer, Exception error, int depth, ref int left)
        {
            writer.ListHead(7);
            Text(writer, TypeName(error));
            Text(writer, Guarded(error, e => e.Message) ?? "");
            Text(writer, Guarded(error, e => e.StackTrace) ?? "");
            Text(writer, Guarded(error, Code));
            Text(writer, Guarded(error, e => e.Data["help"] as string));
            Text(writer, Guarded(error, e => e.HelpLink));
            RemoteError remote = (error as CallError)?.Remote;
            if (remote != null && left > 0)
            {
                writer.ListHead(1);
                left--;
                Write(writer, remote, ref left);
                return;
            }
            Exception[] inner = depth < MaxInner ? Inner(error) : new Exception[0];
            // The list's length is said first: its own come before theirs.
            int count = Math.Min(inner.Length, left);
            left -= count;
            writer.ListHead(count);
            for (int i = 0; i < count; i++)
                Write(writer, inner[i], depth + 1, ref left);
        }

        // As it was told to the caller.
        private static void Write(Writer writer, RemoteError error, ref int left)
        {
            writer.ListHead(7);
            Text(writer, error.Type);
            Text(writer, error.Message);
            Text(writer, error.Stack);
            Text(writer, error.Code);
            Text(writer, error.Help);
            Text(writer, error.Url);
            int count = Math.Min(error.Causes.Length, left);
            left -= count;
            writer.ListHead(count);
            for (int i = 0; i < count; i++)
                Write(writer, error.Causes[i], ref left);
        }

        /// <summary>An error as <see cref="Write(Writer, Exception)"/> writes it.</summary>
        internal static RemoteError Read(Reader reader)
        {
            Codec<string> text = Codecs.Of<string>();
            reader.ReadList("list");
            string type = text.Read(reader);
            string message = text.Read(reader);
            string stack = text.Read(reader);
            string code = text.Read(reader);
            string help = text.Read(reader);
            string url = text.Read(reader);
            RemoteError[] causes = new RemoteError[reader.ReadList("list")];
            for (int i = 0; i < causes.Length; i++)
                causes[i] = Read(reader);
            return new RemoteError(type, message, stack, code, help, url, causes);
        }

        // As a type is written in C#, with no assembly names between the
        // brackets of a generic one.
        private static string TypeName(Exception error)
        {
            Type type = error.GetType();
            if (type.Assembly == typeof(Errors).Assembly)
                return "Menagerie." + type.Name;
            return type.IsGenericType ? type.ToString() : type.FullName;
        }

        private static string Code(Exception error)
        {
            object code = error.Data["code"];
            if (code == null && error is CallError)
                code = ((CallError)error).Kind;
            return code as string ?? (IsNumber(code) ? Convert.ToString(code, CultureInfo.InvariantCulture) : null);
        }

        private static bool IsNumber(object value)
        {
            TypeCode code = Type.GetTypeCode(value?.GetType());
            return code >= TypeCode.SByte && code <= TypeCode.Decimal && !value.GetType().IsEnum;
        }

        private static Exception[] Inner(Exception error)
        {
            AggregateException several = error as AggregateException;
            if (several != null)
            {
                Exception[] all = new Exception[several.InnerExceptions.Count];
                several.InnerExceptions.CopyTo(all, 0);
                return all;
            }
            ReflectionTypeLoadException types = error as ReflectionTypeLoadException;
            if (types != null)
                return Array.FindAll(types.LoaderExceptions, e => e != null);
            return error.InnerException == null ? new Exception[0] : new[] { error.InnerException };
        }

        /// <summary>What was thrown, with its stack; its type, if it does not say.</summary>
        internal static string Describe(object thrown)
        {
            try
            {
                return thrown.ToString();
            }
            catch (Exception)
            {
                return thrown.GetType().FullName;
            }
        }

        // A guest's exception may throw in its own properties.
        private static string Guarded(Exception error, Func<Exception, string> property)
        {
            try
            {
                return property(error);
            }
            catch (Exception)
            {
                return null;
            }
        }

        // Error texts are for people: half a surrogate pair is no reason to
        // lose the error.
        private static void Text(Writer writer, string text)
        {
            writer.String(text == null ? null : Sound(text));
        }

        private static string Sound(string text)
        {
            char[] chars = null;
            for (int i = 0; i < text.Length; i++)
            {
                if (!char.IsSurrogate(text[i]))
                    continue;
                if (char.IsHighSurrogate(text[i]) && i + 1 < text.Length && char.IsLowSurrogate(text[i + 1]))
                {
                    i++;
                    continue;
                }
                chars = chars ?? text.ToCharArray();
                chars[i] = '\ufffd';
            }
            return chars == null ? text : new string(chars);
        }
    }
}
