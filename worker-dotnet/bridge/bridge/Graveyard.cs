using System;
using System.Collections.Generic;
using System.Reflection;
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
        private const int Rounds = 12;

        // What one round finalizes frees something in the next. So many that have found as
        // many finalizers due as the one before have shown that nothing more happens:
        // some objects of .NET's own are due each time.
        private const int IdleRounds = 3;
        private const int FinalizersMilliseconds = 2000;

        private static readonly Dictionary<ulong, WeakReference> Graves = new Dictionary<ulong, WeakReference>();

        // By reflection: Debian's mcs compiles against a base library that lacks them.
        private static readonly MethodInfo MemoryInfo = typeof(GC).GetMethod("GetGCMemoryInfo", Type.EmptyTypes);
        private static readonly PropertyInfo PendingCount = MemoryInfo == null ? null : MemoryInfo.ReturnType.GetProperty("FinalizationPendingCount");

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
            int idle = 0;
            long due = -1;
            for (int round = 0; round < Rounds && idle < IdleRounds; round++)
            {
                if (IsGone(lane))
                    return Remains.None;
                // All of .NET stands still meanwhile, for everybody's bundles.
                GC.Collect();
                long before = due;
                due = FinalizersDue();
                idle = due == before ? idle + 1 : 0;
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

        // How many finalizers the last collection has found due.
        private static long FinalizersDue()
        {
            return MemoryInfo == null ? 0 : (long)PendingCount.GetValue(MemoryInfo.Invoke(null, null));
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
