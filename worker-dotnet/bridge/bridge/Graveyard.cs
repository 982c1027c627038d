using System;
using System.Collections.Generic;
using System.Runtime.CompilerServices;
using System.Runtime.Loader;
using System.Threading.Tasks;

namespace Menagerie.Bridge
{
    /// <summary>Contexts that were unloaded, until they are proved collected.</summary>
    internal static class Graveyard
    {
        private const int Rounds = 12;
        private const int FinalizersMilliseconds = 2000;

        private static readonly Dictionary<ulong, WeakReference> Graves = new Dictionary<ulong, WeakReference>();

        internal static void Bury(ulong lane, AssemblyLoadContext context)
        {
            lock (Graves)
                Graves[lane] = new WeakReference(context, true);
            context.Unload();
        }

        /// <summary>Collects until the lane's context is gone; false if it is held by something.</summary>
        internal static bool Collect(ulong lane)
        {
            Forget();
            for (int round = 0; round < Rounds; round++)
            {
                if (IsGone(lane))
                    return true;
                GC.Collect();
                // A guest's finalizer that never ends must not end this thread
                // too.
                if (!Task.Run(() => GC.WaitForPendingFinalizers()).Wait(FinalizersMilliseconds))
                    return false;
            }
            return IsGone(lane);
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
