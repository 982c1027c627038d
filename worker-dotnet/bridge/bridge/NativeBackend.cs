using System;
using System.Runtime.InteropServices;
using System.Text;

namespace Menagerie.Bridge
{
    /// <summary>What stands behind Menagerie.Host and Menagerie.Log: the worker.</summary>
    internal sealed unsafe class NativeBackend : Backend
    {
        private static readonly UTF8Encoding Utf8 = new UTF8Encoding(false, false);

        private readonly LogFunction log;
        private readonly CallFunction call;
        private readonly ReadFunction read;
        private readonly FreeAnswerFunction freeAnswer;
        private readonly WorkForFunction workFor;

        internal NativeBackend(Callbacks callbacks)
        {
            log = (LogFunction)Marshal.GetDelegateForFunctionPointer(callbacks.Log, typeof(LogFunction));
            call = (CallFunction)Marshal.GetDelegateForFunctionPointer(callbacks.Call, typeof(CallFunction));
            read = (ReadFunction)Marshal.GetDelegateForFunctionPointer(callbacks.Read, typeof(ReadFunction));
            freeAnswer = (FreeAnswerFunction)Marshal.GetDelegateForFunctionPointer(callbacks.FreeAnswer, typeof(FreeAnswerFunction));
            workFor = (WorkForFunction)Marshal.GetDelegateForFunctionPointer(callbacks.WorkFor, typeof(WorkForFunction));
        }

        internal override void Log(int level, string message)
        {
            Lane lane = Lane.Current;
            if (lane == null)
                throw new InvalidOperationException("this thread runs for no bundle");
            Log(lane.Id, level, "log", message);
        }

        internal void Log(ulong lane, int level, string target, string message)
        {
            byte[] t = Utf8.GetBytes(target);
            byte[] m = Utf8.GetBytes(message ?? "");
            fixed (byte* targetBytes = t, messageBytes = m)
                log(lane, level, targetBytes, t.Length, messageBytes, m.Length);
        }

        /// <summary>Who is to be named if this thread ends the process.</summary>
        internal void WorkFor(Lane lane)
        {
            workFor(lane == null ? 0 : lane.Id);
        }

        /// <summary>
        /// What is in a file of a bundle's folder, or null: there is none, or it
        /// is not read, and the problem is not null.
        /// </summary>
        internal byte[] Read(string folder, string file, out string problem)
        {
            byte[] folderBytes = Utf8.GetBytes(folder);
            byte[] fileBytes = Utf8.GetBytes(file);
            Answer answer = new Answer();
            fixed (byte* f = folderBytes, p = fileBytes)
                read(f, folderBytes.Length, p, fileBytes.Length, &answer);
            try
            {
                byte[] data = new byte[answer.Length];
                if (data.Length != 0)
                    Marshal.Copy((IntPtr)answer.Data, data, 0, data.Length);
                problem = answer.Kind == 1 ? Utf8.GetString(data) : null;
                return answer.Kind == 0 ? data : null;
            }
            finally
            {
                freeAnswer(&answer);
            }
        }

        internal override T Call<T>(string contract, string function, object[] args)
        {
            if (contract == null)
                throw new ArgumentNullException("contract");
            if (function == null)
                throw new ArgumentNullException("function");
            Lane lane = Lane.Current;
            if (lane == null)
                throw new InvalidOperationException("this thread runs for no bundle");
            Codec<T> codec = Codecs.Of<T>();
            if (!codec.IsReadable)
                throw new NotSupportedException("the result of a call cannot be a " + codec.Name);
            // The answer is freed before the caller has it.
            if (codec.HoldsViews)
                throw new NotSupportedException("the result of a call cannot be a " + codec.Name + ": a View is of memory that the call gives back; ask for byte[] instead");
            // `Host.Call(c, f, null)` passes no array at all, and `Host.Call(c, f, names)` a
            // string[] as if it were that of the arguments: each is one argument.
            bool isList = args != null && args.GetType() == typeof(object[]);
            object[] arguments = isList ? args : new object[] { args };
            return lane.Run(() => Call(lane, contract, function, arguments, codec));
        }

        private T Call<T>(Lane lane, string contract, string function, object[] args, Codec<T> codec)
        {
            Answer answer = new Answer();
            using (Writer head = new Writer())
            using (Writer body = new Writer())
            {
                head.ListHead(2);
                head.String(contract);
                head.String(function);
                body.Reset(lane.MaxPayload);
                Write(body, args);
                call(lane.Id, head.Start, head.Used, body.Start, body.Used, &answer);
            }
            try
            {
                return Decode(answer, codec);
            }
            finally
            {
                freeAnswer(&answer);
            }
        }

        private static void Write(Writer body, object[] args)
        {
            try
            {
                body.ListHead(args.Length);
                body.Enter();
                foreach (object argument in args)
                    Codecs.Of<object>().WriteBoxed(body, argument);
            }
            catch (PayloadTooLargeException error)
            {
                throw new CallError("PayloadTooLarge", error.Message);
            }
        }

        private static T Decode<T>(Answer answer, Codec<T> codec)
        {
            Reader reader = new Reader();
            reader.Reset(answer.Data, answer.Length);
            if (answer.Kind == 2)
                throw new InvalidOperationException("calls to other bundles are made on the bundle's own thread");
            if (answer.Kind == 1)
                throw Failure(reader);
            try
            {
                return codec.Read(reader);
            }
            catch (DecodeException error)
            {
                throw new CallError("BadValue", "the result does not fit: " + error.Message);
            }
        }

        // [kind, message, null or an error]
        private static CallError Failure(Reader reader)
        {
            Codec<string> text = Codecs.Of<string>();
            reader.ReadList("list");
            string kind = text.Read(reader);
            string message = text.Read(reader);
            return new CallError(kind, message, reader.SkipNil() ? null : Errors.Read(reader));
        }
    }
}
