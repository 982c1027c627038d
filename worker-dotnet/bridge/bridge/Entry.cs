using System;
using System.Reflection;
using System.Runtime.InteropServices;

[assembly: AssemblyTitle("The .NET half of Menagerie's .NET worker")]
[assembly: AssemblyVersion("0.1.0.0")]

namespace Menagerie.Bridge
{
    /// <summary>
    /// What Rust calls. No exception leaves these functions: it would end the
    /// process.
    /// </summary>
    public static unsafe class Entry
    {
        // Answers of entry points that have no bundle's buffer to answer in.
        // The lane's thread has read them before it calls again.
        [ThreadStatic]
        private static Writer scratch;

        /// <summary>Called once, before all others; the outcome is the runtime's version.</summary>
        [UnmanagedCallersOnly]
        public static int Start(Callbacks* callbacks, Outcome* outcome)
        {
            Writer writer = Scratch();
            try
            {
                Backend.Current = new NativeBackend(*callbacks);
                GuestConsole.Restore();
                Unhandled.Install();
                writer.String(Environment.Version.ToString());
                return Finish(writer, outcome, Result.Ok);
            }
            catch (Exception error)
            {
                return Fail(writer, outcome, error);
            }
        }

        /// <summary>
        /// Loads a bundle on its lane's thread. The outcome is a handle and
        /// [[contract, [function, …]], …], or a failed step.
        /// </summary>
        [UnmanagedCallersOnly]
        public static int Load(LoadRequest* request, Outcome* outcome)
        {
            Writer writer = Scratch();
            try
            {
                GuestConsole.Restore();
                Bundle bundle = Bundle.Load(request, writer);
                Finish(writer, outcome, Result.Ok);
                outcome->Handle = GCHandle.ToIntPtr(GCHandle.Alloc(bundle));
                return Result.Ok;
            }
            catch (Exception error)
            {
                LoadFailure failure = error as LoadFailure;
                writer.Reset();
                writer.ListHead(2);
                writer.String(failure == null ? "initialise" : failure.Step);
                Errors.Write(writer, failure == null ? error : failure.InnerException);
                return Finish(writer, outcome, Result.LoadFailed);
            }
        }

        /// <summary>Runs a function; the outcome is its result.</summary>
        [UnmanagedCallersOnly]
        public static int Call(IntPtr bundle, int function, byte* arguments, long length, Outcome* outcome)
        {
            return Target(bundle).Call(function, arguments, length, outcome);
        }

        /// <summary>The body of an outcome has been read.</summary>
        [UnmanagedCallersOnly]
        public static void Unpin(IntPtr bundle)
        {
            Target(bundle).Unpin();
        }

        /// <summary>The bundle's OnLoad hook.</summary>
        [UnmanagedCallersOnly]
        public static int OnLoad(IntPtr bundle, byte* state, long length, Outcome* outcome)
        {
            return Target(bundle).OnLoad(state, length, outcome);
        }

        /// <summary>The bundle's OnUnload hook; the outcome is its result, or empty.</summary>
        [UnmanagedCallersOnly]
        public static int OnUnload(IntPtr bundle, Outcome* outcome)
        {
            return Target(bundle).OnUnload(outcome);
        }

        /// <summary>Lets go of a bundle. Its handle is invalid then.</summary>
        [UnmanagedCallersOnly]
        public static void Free(IntPtr bundle)
        {
            GCHandle handle = GCHandle.FromIntPtr(bundle);
            try
            {
                ((Bundle)handle.Target).Unload();
            }
            catch (Exception)
            {
                // What is left of it is told when it is not collected.
            }
            finally
            {
                handle.Free();
            }
        }

        /// <summary>
        /// Collects what a lane's freed bundle left, and says what remains of it. The
        /// lane's thread ends then, so its scratch buffer goes as well.
        /// </summary>
        [UnmanagedCallersOnly]
        public static int Collect(ulong lane)
        {
            try
            {
                if (scratch != null)
                {
                    scratch.Dispose();
                    scratch = null;
                }
                return (int)Graveyard.Collect(lane);
            }
            catch (Exception)
            {
                return (int)Remains.Held;
            }
        }

        private static Bundle Target(IntPtr handle)
        {
            return (Bundle)GCHandle.FromIntPtr(handle).Target;
        }

        private static Writer Scratch()
        {
            Writer writer = scratch;
            if (writer == null)
                scratch = writer = new Writer();
            writer.Reset();
            return writer;
        }

        internal static int Finish(Writer writer, Outcome* outcome, int result)
        {
            outcome->Head = writer.Start;
            outcome->HeadLength = writer.Used;
            outcome->Body = writer.Body;
            outcome->BodyLength = writer.BodyLength;
            outcome->Handle = writer.BodyPin;
            return result;
        }

        internal static int Fail(Writer writer, Outcome* outcome, Exception error)
        {
            writer.Reset();
            Errors.Write(writer, error);
            return Finish(writer, outcome, Result.GuestError);
        }
    }
}
