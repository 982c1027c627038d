using System;
using System.Threading;
using System.Threading.Tasks;

namespace Menagerie.Bridge
{
    /// <summary>
    /// One generation of a bundle, as its threads know it. It refers to nothing
    /// of the bundle's own, for a forgotten timer that still flows with it must
    /// not keep the bundle from being collected.
    /// </summary>
    internal sealed class Lane
    {
        // The lane whose own thread this is.
        [ThreadStatic]
        private static Lane own;

        // The lane that this thread or continuation was started from.
        private static readonly AsyncLocal<Lane> Flow = new AsyncLocal<Lane>(Flows);

        private readonly Pump pump = new Pump();

        /// <summary>The lane's number in this worker.</summary>
        internal readonly ulong Id;

        /// <summary>How many bytes a value may take.</summary>
        internal readonly long MaxPayload;

        /// <summary>How many bytes a state may take.</summary>
        internal readonly long MaxState;

        internal readonly LineBuffer Out;
        internal readonly LineBuffer Error;

        internal Lane(ulong id, long maxPayload, long maxState)
        {
            Id = id;
            MaxPayload = maxPayload;
            MaxState = maxState;
            Out = new LineBuffer(id, "stdout", 2);
            Error = new LineBuffer(id, "stderr", 3);
        }

        /// <summary>The lane that this code runs for, or null.</summary>
        internal static Lane Current => own ?? Flow.Value;

        /// <summary>This thread is the lane's from now on.</summary>
        internal void Enter()
        {
            own = this;
            Flow.Value = this;
        }

        /// <summary>This thread is no lane's any more.</summary>
        internal void Leave()
        {
            Out.Flush();
            Error.Flush();
            Flow.Value = null;
            own = null;
        }

        // Rust knows a lane's own thread. What others work for they know here only, and
        // no code runs here any more when the process is aborted.
        private static void Flows(AsyncLocalValueChangedArgs<Lane> change)
        {
            if (own == null)
                ((NativeBackend)Backend.Current).WorkFor(change.CurrentValue);
        }

        /// <summary>
        /// Waits for what a function returned, on the lane's thread, and runs
        /// there what the bundle's other threads ask for meanwhile.
        /// </summary>
        internal static void Wait(Task task)
        {
            if (task == null)
                throw new InvalidOperationException("the function returned null instead of a Task");
            if (task.IsCompleted)
                return;
            if (own == null)
                throw new InvalidOperationException("a Task is awaited on another thread than the bundle's");
            own.pump.Wait(task);
        }

        /// <summary>Runs work on the lane's thread.</summary>
        internal T Run<T>(Func<T> work)
        {
            return own == this ? work() : pump.Send(work);
        }
    }
}
