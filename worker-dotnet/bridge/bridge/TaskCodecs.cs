using System;
using System.Threading.Tasks;

namespace Menagerie.Bridge
{
    /// <summary>A result that comes later: the call ends when it is there.</summary>
    internal sealed class TaskCodec : Codec<Task>
    {
        internal override string Name => "Task";

        internal override bool IsReadable => false;

        internal override Task Read(Reader reader) => throw new NotSupportedException();

        internal override void Write(Writer writer, Task task)
        {
            Lane.Wait(task);
            task.GetAwaiter().GetResult();
            writer.Nil();
        }
    }

    internal sealed class TaskCodec<T> : Codec<Task<T>>
    {
        private readonly Codec<T> result = Codecs.Of<T>();

        internal override string Name => "Task<" + result.Name + ">";

        internal override bool IsReadable => false;

        internal override Task<T> Read(Reader reader) => throw new NotSupportedException();

        internal override void Write(Writer writer, Task<T> task)
        {
            Lane.Wait(task);
            result.Write(writer, task.GetAwaiter().GetResult());
        }
    }

    internal sealed class ValueTaskCodec : Codec<ValueTask>
    {
        private readonly TaskCodec inner = new TaskCodec();

        internal override string Name => "ValueTask";

        internal override bool IsReadable => false;

        internal override ValueTask Read(Reader reader) => throw new NotSupportedException();

        internal override void Write(Writer writer, ValueTask task) => inner.Write(writer, task.AsTask());
    }

    internal sealed class ValueTaskCodec<T> : Codec<ValueTask<T>>
    {
        private readonly TaskCodec<T> inner = new TaskCodec<T>();

        internal override string Name => "ValueTask<T>";

        internal override bool IsReadable => false;

        internal override ValueTask<T> Read(Reader reader) => throw new NotSupportedException();

        internal override void Write(Writer writer, ValueTask<T> task) => inner.Write(writer, task.AsTask());
    }
}
