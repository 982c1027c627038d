namespace Menagerie
{
    /// <summary>
    /// The optional hooks of a bundle. One public class may implement them, be
    /// it a contract's class or another one.
    /// </summary>
    public interface IBundle
    {
        /// <summary>Called once, before the first call.</summary>
        void OnLoad(Context context);

        /// <summary>
        /// Called once, after the last call. At a reload the result becomes the
        /// next generation's <see cref="Context.State"/>.
        /// </summary>
        object OnUnload();
    }

    /// <summary>What a bundle learns when it is loaded.</summary>
    public sealed class Context
    {
        /// <summary>
        /// What the previous generation's <see cref="IBundle.OnUnload"/>
        /// returned, or null.
        /// </summary>
        public object State { get; }

        /// <summary>The bundle's name.</summary>
        public string Bundle { get; }

        /// <summary>How many times the bundle has been loaded, from 1.</summary>
        public int Generation { get; }

        /// <summary>The bundle's folder, or null if it came from memory.</summary>
        public string Directory { get; }

        internal Context(object state, string bundle, int generation, string directory)
        {
            State = state;
            Bundle = bundle;
            Generation = generation;
            Directory = directory;
        }
    }
}
