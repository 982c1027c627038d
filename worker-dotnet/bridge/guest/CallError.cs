using System;

namespace Menagerie
{
    /// <summary>Why a <see cref="Host.Call(string, string, object[])"/> ended without a result.</summary>
    public class CallError : Exception
    {
        /// <summary>
        /// The kind of failure: <c>Guest</c> for an error that the callee
        /// raised, else <c>NoSuchContract</c>, <c>DeadlineExceeded</c>, …
        /// </summary>
        public string Kind { get; }

        /// <summary>
        /// What the callee raised, or null. Who lets this exception through
        /// passes it on.
        /// </summary>
        public RemoteError Remote { get; }

        /// <summary>The type of the callee's error in its own language, or null.</summary>
        public string RemoteType => Remote?.Type;

        /// <summary>The message of the callee's error, or null.</summary>
        public string RemoteMessage => Remote?.Message;

        /// <summary>The stack of the callee's error in its own language, or null.</summary>
        public string RemoteStack => Remote?.Stack;

        /// <summary>A failure of this kind.</summary>
        public CallError(string kind, string message) : this(kind, message, null)
        {
        }

        internal CallError(string kind, string message, RemoteError remote) : base(message)
        {
            Kind = kind;
            Remote = remote;
        }
    }

    /// <summary>An error of the callee's own code, in its own words.</summary>
    public sealed class RemoteError
    {
        /// <summary>Its type in the callee's language.</summary>
        public string Type { get; }

        /// <summary>Its message.</summary>
        public string Message { get; }

        /// <summary>Its stack in the language's own format, or empty.</summary>
        public string Stack { get; }

        /// <summary>A code, or null.</summary>
        public string Code { get; }

        /// <summary>A text that helps, or null.</summary>
        public string Help { get; }

        /// <summary>A page that helps, or null.</summary>
        public string Url { get; }

        /// <summary>Its causes, outermost first.</summary>
        public RemoteError[] Causes { get; }

        internal RemoteError(string type, string message, string stack, string code, string help, string url, RemoteError[] causes)
        {
            Type = type;
            Message = message;
            Stack = stack;
            Code = code;
            Help = help;
            Url = url;
            Causes = causes;
        }
    }
}
