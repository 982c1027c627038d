using System;
using System.Diagnostics;
using System.Reflection;
using System.Runtime.Loader;

namespace Menagerie.Bridge
{
    /// <summary>
    /// Exceptions that nobody catches: in an `async void`, a timer, a thread of a
    /// bundle's own, a finalizer. .NET ends the process for them, with every bundle in
    /// it; here the supervisor learns whose it was.
    /// </summary>
    internal static class Unhandled
    {
        // What the supervisor knows such a record by: ENDED_BY in protocol's message.rs.
        private const string Target = "unhandled";
        private const int Error = 4;

        internal static void Install()
        {
            AppDomain.CurrentDomain.UnhandledException += (sender, arguments) => Tell(arguments.ExceptionObject);
        }

        private static void Tell(object thrown)
        {
            try
            {
                Lane lane = Lane.Current ?? Thrower(thrown as Exception);
                if (lane != null)
                    ((NativeBackend)Backend.Current).Log(lane.Id, Error, Target, "an exception that nobody catches ends the worker: " + Errors.Describe(thrown));
            }
            catch (Exception)
            {
                // .NET tells of the exception itself, on the standard error.
            }
        }

        // A finalizer's thread was started from no bundle, but its code is of one. What
        // throws may be the framework's, on its behalf.
        private static Lane Thrower(Exception error)
        {
            if (error == null)
                return null;
            foreach (StackFrame frame in new StackTrace(error).GetFrames() ?? new StackFrame[0])
            {
                MethodBase method = frame.GetMethod();
                BundleContext context = method == null ? null : AssemblyLoadContext.GetLoadContext(method.Module.Assembly) as BundleContext;
                if (context != null)
                    return context.Lane;
            }
            return null;
        }
    }
}
