using System;
using System.Collections.Generic;
using System.Reflection;
using System.Runtime.Loader;

namespace Menagerie.Bridge
{
    /// <summary>A contract's class, before anything of it ran.</summary>
    internal sealed class Export
    {
        internal string Contract;
        internal Type Class;
        internal List<Method> Methods;
    }

    /// <summary>A method under its function's name.</summary>
    internal sealed class Method
    {
        internal string Name;
        internal MethodInfo Info;
    }

    /// <summary>Finds what an assembly exports.</summary>
    internal static class Exports
    {
        /// <summary>The contracts, sorted by name, and the class with the hooks or null.</summary>
        /// <exception cref="ContractException">A class or method cannot be exported.</exception>
        internal static List<Export> Find(Assembly assembly, out Type hooks)
        {
            List<Export> exports = new List<Export>();
            hooks = null;
            foreach (Type type in Types(assembly))
            {
                ContractAttribute contract = (ContractAttribute)Attribute.GetCustomAttribute(type, typeof(ContractAttribute), false);
                if (contract != null)
                    exports.Add(ReadClass(type, contract.Name));
                if (!type.IsVisible || type.IsAbstract || !typeof(IBundle).IsAssignableFrom(type))
                    continue;
                if (hooks != null)
                    throw new ContractException("both " + hooks.FullName + " and " + type.FullName + " implement IBundle; a bundle has one such class");
                hooks = type;
                CheckConstructor(type);
            }
            exports.Sort((a, b) => string.CompareOrdinal(a.Contract, b.Contract));
            return exports;
        }

        // Types that cannot be loaded matter only if they are all that there is.
        private static Type[] Types(Assembly assembly)
        {
            try
            {
                return assembly.GetTypes();
            }
            catch (ReflectionTypeLoadException error)
            {
                throw new LoadFailure("import", error);
            }
        }

        private static Export ReadClass(Type type, string contract)
        {
            string name = type.FullName;
            if (string.IsNullOrEmpty(contract))
                throw new ContractException(name + " has a [Contract] with no name");
            if (!type.IsVisible)
                throw new ContractException(name + " has [Contract] but is not public");
            if (type.IsAbstract)
                throw new ContractException(name + " has [Contract] but is " + (type.IsSealed ? "static" : "abstract") + "; it must be a class of which there can be an object");
            if (type.ContainsGenericParameters)
                throw new ContractException(name + " has [Contract] but is generic");
            CheckConstructor(type);
            return new Export { Contract = contract, Class = type, Methods = ReadMethods(type) };
        }

        private static void CheckConstructor(Type type)
        {
            if (type.GetConstructor(Type.EmptyTypes) == null)
                throw new ContractException(type.FullName + " has no public constructor without parameters");
        }

        // What a class has from .NET itself, or overrides of that, is no part of its
        // contract; what it has from a base class of the bundle's own is, if it can be.
        private static List<Method> ReadMethods(Type type)
        {
            Dictionary<string, MethodInfo> methods = new Dictionary<string, MethodInfo>();
            HashSet<string> signatures = new HashSet<string>();
            for (Type level = type; IsOfABundle(level); level = level.BaseType)
            {
                foreach (KeyValuePair<string, MethodInfo> pair in ReadLevel(type, level, signatures))
                {
                    if (!methods.ContainsKey(pair.Key))
                        methods.Add(pair.Key, pair.Value);
                }
            }
            List<string> names = new List<string>(methods.Keys);
            names.RemoveAll(name => methods[name] == null);
            names.Sort(StringComparer.Ordinal);
            return names.ConvertAll(name => new Method { Name = name, Info = methods[name] });
        }

        // What a class or one of its bases declares itself, and a class between them does
        // not hide. Null stands for several methods of a base by one name: none of them
        // is the function.
        private static Dictionary<string, MethodInfo> ReadLevel(Type type, Type level, HashSet<string> signatures)
        {
            Dictionary<string, MethodInfo> methods = new Dictionary<string, MethodInfo>();
            foreach (MethodInfo method in level.GetMethods(BindingFlags.Public | BindingFlags.Instance | BindingFlags.DeclaredOnly))
            {
                try
                {
                    if (!signatures.Add(Signature(method)) || method.IsSpecialName || IsHook(type, method) || !IsOfABundle(method.GetBaseDefinition().DeclaringType))
                        continue;
                    Function.Check(method);
                    FunctionAttribute renamed = (FunctionAttribute)Attribute.GetCustomAttribute(method, typeof(FunctionAttribute));
                    string name = renamed == null ? Names.SnakeCase(method.Name) : renamed.Name;
                    if (methods.ContainsKey(name) && level == type)
                        throw new ContractException(type.FullName + " exports '" + name + "' twice: by " + methods[name] + " and by " + method + "; functions have no overloads, [Function(\"name\")] gives a method another name");
                    methods[name] = methods.ContainsKey(name) ? null : method;
                }
                catch (Exception) when (level != type)
                {
                    // A helper, perhaps of a library of base classes, that cannot be a
                    // function, and need not be one.
                }
            }
            return methods;
        }

        private static string Signature(MethodInfo method)
        {
            int generic = method.IsGenericMethod ? method.GetGenericArguments().Length : 0;
            Type[] types = Array.ConvertAll(method.GetParameters(), parameter => parameter.ParameterType);
            return method.Name + "`" + generic + "(" + string.Join<Type>(", ", types) + ")";
        }

        private static bool IsOfABundle(Type type)
        {
            return AssemblyLoadContext.GetLoadContext(type.Assembly) is BundleContext;
        }

        // The methods by which a class is an IBundle or IDisposable are not
        // among the contract's functions.
        private static bool IsHook(Type type, MethodInfo method)
        {
            foreach (Type hook in new[] { typeof(IBundle), typeof(IDisposable) })
            {
                if (hook.IsAssignableFrom(type) && Array.Exists(type.GetInterfaceMap(hook).TargetMethods, target => target.MethodHandle == method.MethodHandle))
                    return true;
            }
            return false;
        }
    }
}
