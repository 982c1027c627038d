using System;
using System.Collections.Generic;
using System.Runtime.CompilerServices;
using System.Runtime.Loader;
using System.Threading;
using System.Threading.Tasks;

namespace Menagerie.Bridge
{
    /// <summary>What became of an unloaded context. The worker knows them by number.</summary>
    internal enum Remains
    {
        None = 0,
        Held = 1,
        Unfinalized = 2,
    }

    /// <summary>Contexts that were unloaded, until they are proved collected.</summary>
    internal static class Graveyard
    {
        // All of .NET stands still in each, for everybody's bundles. Two will do for what can
        // go at all; a finalizer that keeps others waiting for theirs takes one more.
        private const int Rounds = 5;
        private const int FinalizersMilliseconds = 2000;

        private static readonly Dictionary<ulong, WeakReference> Graves = new Dictionary<ulong, WeakReference>();

        // A wait for the finalizers that took too long, and may still be under way: one of
        // them does not end, or has ended the thread that runs them all.
        private static volatile Task endless = Task.CompletedTask;

        internal static void Bury(ulong lane, AssemblyLoadContext context)
        {
            lock (Graves)
                Graves[lane] = new WeakReference(context, true);
            context.Unload();
        }

        /// <summary>Collects until the lane's context is gone, or cannot go.</summary>
        internal static Remains Collect(ulong lane)
        {
            Forget();
            for (int round = 0; round < Rounds; round++)
            {
                if (IsGone(lane))
                    return Remains.None;
                GC.Collect();
                if (!HaveRun())
                    return Remains.Unfinalized;
            }
            return IsGone(lane) ? Remains.None : Remains.Held;
        }

        /// <summary>Waits until the finalizers have run, on a thread that may wait for ever.</summary>
        private static bool HaveRun()
        {
            // What has been waited for in vain is not waited for again.
            if (!endless.IsCompleted)
                return false;
            // A thread of its own: bundles may keep those of the pool busy.
            Task wait = Task.Factory.StartNew(() => GC.WaitForPendingFinalizers(), CancellationToken.None, TaskCreationOptions.LongRunning | TaskCreationOptions.DenyChildAttach, TaskScheduler.Default);
            if (wait.Wait(FinalizersMilliseconds))
                return true;
            endless = wait;
            return false;
        }

        [MethodImpl(MethodImplOptions.NoInlining)]
        private static bool IsGone(ulong lane)
        {
            lock (Graves)
            {
                WeakReference grave;
                if (!Graves.TryGetValue(lane, out grave))
                    return true;
                if (grave.IsAlive)
                    return false;
                Graves.Remove(lane);
                return true;
            }
        }

        // The runtime remembers each thread's last exception, and with it the
        // code that threw it. An exception of our own takes its place.
        [MethodImpl(MethodImplOptions.NoInlining)]
        private static void Forget()
        {
            try
            {
                throw new OperationCanceledException();
            }
            catch (OperationCanceledException)
            {
            }
        }
    }
}
