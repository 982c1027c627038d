using System;
using System.Reflection;

namespace Menagerie.Bridge
{
    /// <summary>One exported method.</summary>
    internal sealed class Function
    {
        private readonly string[] parameters;
        private readonly int required;
        private readonly Invoker invoker;

        internal readonly string Name;

        /// <summary>Binds a method of an object.</summary>
        /// <exception cref="ContractException">The method cannot be exported.</exception>
        internal Function(string name, MethodInfo method, object target)
        {
            Name = name;
            ParameterInfo[] infos = method.GetParameters();
            Codec[] codecs = new Codec[infos.Length];
            parameters = new string[infos.Length];
            for (int i = 0; i < infos.Length; i++)
            {
                codecs[i] = ParameterCodec(method, infos[i]);
                parameters[i] = infos[i].Name + ": " + codecs[i].Name;
                if (!infos[i].HasDefaultValue)
                    required = i + 1;
            }
            invoker = Invokers.Bind(method, target, codecs, ResultCodec(method));
        }

        internal static void Check(MethodInfo method)
        {
            if (method.ContainsGenericParameters)
                throw Refused(method, "is generic; only its caller knows the types");
            foreach (ParameterInfo parameter in method.GetParameters())
                ParameterCodec(method, parameter);
            ResultCodec(method);
        }

        internal void Run(Reader reader, Writer writer)
        {
            int given = parameters.Length;
            // As many as there are parameters: nearly always.
            if (!reader.SkipShortList(given))
            {
                given = reader.ReadList("list");
                if (given > parameters.Length || given < required)
                    throw new DecodeException("takes " + Count() + ", got " + given);
            }
            invoker.Run(reader, given, writer);
        }

        /// <summary>What was wrong with the arguments of a call.</summary>
        internal string Describe(DecodeException error, int argument)
        {
            string signature = Name + "(" + string.Join(", ", parameters) + ")";
            // Only the count is judged before the first argument is read.
            return argument < 0
                ? signature + " " + error.Message
                : signature + ": argument " + (argument + 1) + ": " + error.Message;
        }

        private string Count()
        {
            int most = parameters.Length;
            string plural = most == 1 ? " argument" : " arguments";
            return (required == most ? "" : required + " to ") + most + plural;
        }

        private static Codec ParameterCodec(MethodInfo method, ParameterInfo parameter)
        {
            if (parameter.ParameterType.IsByRef)
                throw Refused(method, "has the ref or out parameter '" + parameter.Name + "'; return the value instead");
            try
            {
                Codec codec = Codecs.Of(parameter.ParameterType);
                if (!codec.IsReadable)
                    throw new NotSupportedException("a " + codec.Name + " cannot be an argument");
                return codec;
            }
            catch (NotSupportedException error)
            {
                throw Refused(method, "has the parameter '" + parameter.Name + "': " + error.Message);
            }
        }

        // Null for void.
        private static Codec ResultCodec(MethodInfo method)
        {
            if (method.ReturnType == typeof(void))
            {
                if (method.IsDefined(typeof(System.Runtime.CompilerServices.AsyncStateMachineAttribute), false))
                    throw Refused(method, "is async void; let it return a Task, so that its end can be awaited");
                return null;
            }
            try
            {
                return Codecs.Of(method.ReturnType);
            }
            catch (NotSupportedException error)
            {
                throw Refused(method, "has a result: " + error.Message);
            }
        }

        private static ContractException Refused(MethodInfo method, string why)
        {
            return new ContractException(method.DeclaringType.FullName + "." + method.Name + " " + why);
        }
    }
}
