// What the bridge uses of .NET that Mono's libraries lack, to compile against
// with mcs: the runtime's own System.Runtime.InteropServices.dll takes this
// one's place.

using System.Reflection;

[assembly: AssemblyVersion("4.0.0.0")]

namespace System.Runtime.InteropServices
{
    [AttributeUsage(AttributeTargets.Method, Inherited = false)]
    public sealed class UnmanagedCallersOnlyAttribute : Attribute
    {
    }
}
