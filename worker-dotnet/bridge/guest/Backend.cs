using System;
using System.Runtime.CompilerServices;

[assembly: InternalsVisibleTo("Menagerie.Bridge")]

namespace Menagerie
{
    // What stands behind this assembly in a worker: the bridge.
    internal abstract class Backend
    {
        private static Backend current;

        internal static Backend Current
        {
            get
            {
                if (current == null)
                    throw new InvalidOperationException("this code does not run in a Menagerie worker");
                return current;
            }
            set { current = value; }
        }

        internal abstract T Call<T>(string contract, string function, object[] args);

        internal abstract void Log(int level, string message);
    }
}
