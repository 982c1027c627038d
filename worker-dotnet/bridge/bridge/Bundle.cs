using System;
using System.Collections.Generic;
using System.IO;
using System.Reflection;
using System.Text;

namespace Menagerie.Bridge
{
    /// <summary>A loaded generation of a bundle, on its lane's thread.</summary>
    internal sealed unsafe class Bundle
    {
        private static readonly UTF8Encoding Utf8 = new UTF8Encoding(false, false);

        private readonly Lane lane;
        private readonly string name;
        private readonly int generation;
        private readonly string directory;
        private readonly BundleContext context;
        private readonly Dictionary<Type, object> objects = new Dictionary<Type, object>();
        private readonly Reader reader = new Reader();
        private readonly Writer writer = new Writer();
        private Function[] functions;
        private IBundle hooks;

        private Bundle(Lane lane, string name, int generation, string directory)
        {
            this.lane = lane;
            this.name = name;
            this.generation = generation;
            this.directory = directory;
            context = new BundleContext(lane, name + "#" + generation, directory);
        }

        /// <summary>Loads a bundle, and writes [[contract, [function, …]], …].</summary>
        internal static Bundle Load(LoadRequest* request, Writer interfaces)
        {
            Reader head = new Reader();
            head.Reset(request->Head, request->HeadLength);
            head.ReadList("list");
            string name = Codecs.Of<string>().Read(head);
            int generation = Codecs.Of<int>().Read(head);
            string directory = Codecs.Of<string>().Read(head);
            Lane lane = new Lane(request->Lane, request->MaxPayload, request->MaxState);
            Bundle bundle = new Bundle(lane, name, generation, directory);
            bundle.lane.Enter();
            try
            {
                bundle.Load(bundle.ReadAssembly(request), interfaces);
            }
            catch
            {
                bundle.Unload();
                throw;
            }
            return bundle;
        }

        private Assembly ReadAssembly(LoadRequest* request)
        {
            try
            {
                using (Stream image = new UnmanagedMemoryStream(request->Image, request->ImageLength))
                using (Stream symbols = request->Symbols == null ? null : new UnmanagedMemoryStream(request->Symbols, request->SymbolsLength))
                    return context.LoadFromStream(image, symbols);
            }
            catch (BadImageFormatException error)
            {
                throw new LoadFailure("image", error);
            }
            catch (Exception error)
            {
                throw new LoadFailure("import", error);
            }
        }

        private void Load(Assembly assembly, Writer interfaces)
        {
            Type hooksClass;
            List<Export> exports = Find(assembly, out hooksClass);
            List<Function> all = new List<Function>();
            interfaces.ListHead(exports.Count);
            foreach (Export export in exports)
            {
                object target = Create(export.Class);
                interfaces.ListHead(2);
                interfaces.String(export.Contract);
                interfaces.ListHead(export.Methods.Count);
                foreach (Method method in export.Methods)
                {
                    interfaces.String(method.Name);
                    all.Add(new Function(method.Name, method.Info, target));
                }
            }
            functions = all.ToArray();
            hooks = hooksClass == null ? null : (IBundle)Create(hooksClass);
        }

        private static List<Export> Find(Assembly assembly, out Type hooks)
        {
            try
            {
                return Exports.Find(assembly, out hooks);
            }
            catch (ContractException error)
            {
                throw new LoadFailure("register", error);
            }
            catch (LoadFailure)
            {
                throw;
            }
            catch (Exception error)
            {
                // A type of a signature or an attribute that cannot be found.
                throw new LoadFailure("import", error);
            }
        }

        // One object of each class, however many roles it has.
        private object Create(Type type)
        {
            object target;
            if (!objects.TryGetValue(type, out target))
            {
                try
                {
                    target = Activator.CreateInstance(type);
                }
                catch (TargetInvocationException error)
                {
                    throw new LoadFailure("initialise", error.InnerException ?? error);
                }
                catch (Exception error)
                {
                    throw new LoadFailure("initialise", error);
                }
                objects.Add(type, target);
            }
            return target;
        }

        internal int Call(int function, byte* arguments, long length, Outcome* outcome)
        {
            try
            {
                GuestConsole.Restore();
                writer.Reset(lane.MaxPayload);
                reader.Reset(arguments, length);
                functions[function].Run(reader, writer);
                return Entry.Finish(writer, outcome, Result.Ok);
            }
            catch (Exception error)
            {
                return Fail(function, error, outcome);
            }
            finally
            {
                if (reader.Views.Count != 0)
                    reader.CloseViews();
            }
        }

        private int Fail(int function, Exception error, Outcome* outcome)
        {
            int argument = reader.Argument;
            reader.Argument = -1;
            PayloadTooLargeException large = error as PayloadTooLargeException;
            if (large != null)
            {
                writer.Reset();
                writer.Int(large.Size);
                return Entry.Finish(writer, outcome, Result.TooLarge);
            }
            DecodeException wrong = error as DecodeException;
            if (wrong == null)
                return Entry.Fail(writer, outcome, error);
            writer.Reset();
            writer.Text(Utf8.GetBytes(functions[function].Describe(wrong, argument)));
            return Entry.Finish(writer, outcome, Result.BadArguments);
        }

        internal void Unpin()
        {
            writer.Unpin();
        }

        internal int OnLoad(byte* state, long length, Outcome* outcome)
        {
            try
            {
                GuestConsole.Restore();
                writer.Reset();
                if (hooks != null)
                {
                    reader.Reset(state, length);
                    object value = state == null ? null : Codecs.Of<object>().Read(reader);
                    hooks.OnLoad(new Context(value, name, generation, directory));
                }
                return Entry.Finish(writer, outcome, Result.Ok);
            }
            catch (Exception error)
            {
                return Entry.Fail(writer, outcome, error);
            }
        }

        internal int OnUnload(Outcome* outcome)
        {
            try
            {
                writer.Reset(lane.MaxState);
                object state = hooks == null ? null : hooks.OnUnload();
                if (state != null)
                    Codecs.Of<object>().Write(writer, state);
                return Entry.Finish(writer, outcome, Result.Ok);
            }
            catch (Exception error)
            {
                return Entry.Fail(writer, outcome, error);
            }
        }

        /// <summary>Lets go of all that is the bundle's own.</summary>
        internal void Unload()
        {
            foreach (object target in objects.Values)
                Dispose(target as IDisposable);
            objects.Clear();
            functions = null;
            hooks = null;
            writer.Dispose();
            try
            {
                Bury();
            }
            finally
            {
                lane.Leave();
            }
        }

        private void Bury()
        {
            try
            {
                Graveyard.Bury(lane.Id, context);
            }
            catch (Exception error)
            {
                // It has not been unloaded; its handlers are not called again.
                Say("a handler of the context's Unloading failed: " + Errors.Describe(error));
                context.Unload();
            }
        }

        private void Say(string problem)
        {
            ((NativeBackend)Backend.Current).Log(lane.Id, 3, "log", problem);
        }

        // Nobody is left to answer to; the log hears of it.
        private void Dispose(IDisposable target)
        {
            try
            {
                if (target != null)
                    target.Dispose();
            }
            catch (Exception error)
            {
                Say("Dispose failed: " + Errors.Describe(error));
            }
        }
    }
}
