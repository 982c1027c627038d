using System.Reflection;

[assembly: AssemblyTitle("What bundles for Menagerie reference")]
[assembly: AssemblyVersion("0.1.0.0")]
