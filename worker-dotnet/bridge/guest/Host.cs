namespace Menagerie
{
    /// <summary>Calls to other bundles' contracts, and to the host's.</summary>
    public static class Host
    {
        /// <summary>
        /// Calls a function of a contract (<c>greeter@1</c>, or
        /// <c>bundle/greeter@1</c> for that bundle's and no other's) and waits
        /// for its result. An array of another type than <c>object[]</c> is one argument.
        /// </summary>
        /// <exception cref="CallError">The call ended without a result.</exception>
        public static object Call(string contract, string function, params object[] args)
        {
            return Backend.Current.Call<object>(contract, function, args);
        }

        /// <summary>The same with a result of a certain type.</summary>
        /// <exception cref="CallError">
        /// The call ended without a result, or with one of another type.
        /// </exception>
        public static T Call<T>(string contract, string function, params object[] args)
        {
            return Backend.Current.Call<T>(contract, function, args);
        }
    }

    /// <summary>Records in the host's log, under the bundle's name.</summary>
    public static class Log
    {
        /// <summary>Steps of interest to who debugs this bundle's inner life.</summary>
        public static void Trace(string message) => Backend.Current.Log(0, message);

        /// <summary>Steps of interest to who debugs this bundle.</summary>
        public static void Debug(string message) => Backend.Current.Log(1, message);

        /// <summary>What an operator may want to know.</summary>
        public static void Info(string message) => Backend.Current.Log(2, message);

        /// <summary>What an operator should look at.</summary>
        public static void Warn(string message) => Backend.Current.Log(3, message);

        /// <summary>What failed.</summary>
        public static void Error(string message) => Backend.Current.Log(4, message);
    }
}
