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

        /// <summary>The type of the callee's error in its own language, or null.</summary>
        public string RemoteType { get; }

        /// <summary>The message of the callee's error, or null.</summary>
        public string RemoteMessage { get; }

        /// <summary>The stack of the callee's error in its own language, or null.</summary>
        public string RemoteStack { get; }

        /// <summary>A failure of this kind.</summary>
        public CallError(string kind, string message) : base(message)
        {
            Kind = kind;
        }

        internal CallError(string kind, string message, string remoteType, string remoteMessage, string remoteStack)
            : base(message)
        {
            Kind = kind;
            RemoteType = remoteType;
            RemoteMessage = remoteMessage;
            RemoteStack = remoteStack;
        }
    }
}
