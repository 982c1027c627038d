// What the bridge uses of .NET that Mono's libraries lack, to compile against
// with mcs: the runtime's own System.Runtime.Loader.dll takes this one's place.

using System.IO;
using System.Reflection;

[assembly: AssemblyVersion("4.0.0.0")]

namespace System.Runtime.Loader
{
    public abstract class AssemblyLoadContext
    {
        protected AssemblyLoadContext(string name, bool isCollectible)
        {
        }

        public event Func<AssemblyLoadContext, AssemblyName, Assembly> Resolving
        {
            add { }
            remove { }
        }

        public static AssemblyLoadContext GetLoadContext(Assembly assembly) => null;

        protected virtual Assembly Load(AssemblyName assemblyName) => null;

        public Assembly LoadFromStream(Stream assembly, Stream assemblySymbols) => null;

        public void Unload()
        {
        }
    }
}
