using System;

namespace Menagerie
{
    /// <summary>
    /// Exports a public class as a contract: its public methods become the
    /// contract's functions, <c>GreetAll</c> as <c>greet_all</c>.
    /// </summary>
    [AttributeUsage(AttributeTargets.Class, Inherited = false)]
    public sealed class ContractAttribute : Attribute
    {
        /// <summary>The contract, for example <c>greeter@1</c>.</summary>
        public string Name { get; }

        /// <summary>Exports the class as the contract of this name.</summary>
        public ContractAttribute(string name)
        {
            Name = name;
        }
    }

    /// <summary>Gives a function another name than its method's.</summary>
    [AttributeUsage(AttributeTargets.Method)]
    public sealed class FunctionAttribute : Attribute
    {
        /// <summary>The function's name, in snake_case.</summary>
        public string Name { get; }

        /// <summary>Exports the method under this name.</summary>
        public FunctionAttribute(string name)
        {
            Name = name;
        }
    }
}
