using System;
using System.Collections.Generic;
using System.IO;
using System.Reflection;
using System.Runtime.Loader;

namespace Menagerie.Bridge
{
    /// <summary>
    /// The assemblies of one generation of a bundle. Each is loaded from bytes,
    /// so that the user's files are never locked or mapped, and may be written
    /// over at any time.
    /// </summary>
    internal sealed class BundleContext : AssemblyLoadContext
    {
        private const string Guest = "Menagerie.Guest";

        private static readonly Dictionary<string, string> Framework = ReadFramework();

        private readonly string directory;

        /// <summary>The generation's lane.</summary>
        internal readonly Lane Lane;

        internal BundleContext(Lane lane, string name, string directory) : base(name, true)
        {
            Lane = lane;
            this.directory = directory;
            // Framework assemblies come first, so that all bundles share them;
            // a newer one in the bundle's directory is found when the runtime's
            // own does not do.
            Resolving += (context, name_) => Sibling(name_);
        }

        protected override Assembly Load(AssemblyName name)
        {
            // Not the bundle's own copy: its types would be others than those
            // that the bridge knows.
            if (name.Name == Guest)
                return typeof(ContractAttribute).Assembly;
            if (Framework.ContainsKey(name.Name))
                return null;
            if (directory == null && string.IsNullOrEmpty(name.CultureName))
                throw new FileNotFoundException("the bundle was loaded from memory and has no directory, so the assembly '" + name.Name + "' cannot be found beside it");
            return Sibling(name);
        }

        private Assembly Sibling(AssemblyName name)
        {
            if (directory == null)
                return null;
            string file = Path.Combine(directory, name.CultureName ?? "", name.Name + ".dll");
            string problem;
            byte[] image = Read(file, out problem);
            if (problem != null)
                throw new FileLoadException("the assembly '" + name.Name + "' is not loaded: " + problem, file);
            if (image == null)
                return null;
            byte[] symbols = Read(Path.ChangeExtension(file, ".pdb"), out problem);
            return LoadFromStream(new MemoryStream(image), IsPortable(symbols) ? new MemoryStream(symbols) : null);
        }

        private byte[] Read(string file, out string problem)
        {
            return ((NativeBackend)Backend.Current).Read(directory, file, out problem);
        }

        // Other kinds of debug information would fail the load.
        private static bool IsPortable(byte[] symbols)
        {
            return symbols != null && symbols.Length > 3 && symbols[0] == 'B' && symbols[1] == 'S' && symbols[2] == 'J' && symbols[3] == 'B';
        }

        private static Dictionary<string, string> ReadFramework()
        {
            Dictionary<string, string> names = new Dictionary<string, string>();
            string paths = (string)AppContext.GetData("TRUSTED_PLATFORM_ASSEMBLIES");
            foreach (string path in (paths ?? "").Split(new[] { Path.PathSeparator }))
                names[Path.GetFileNameWithoutExtension(path)] = path;
            return names;
        }
    }
}
