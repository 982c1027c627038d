using System;
using System.Runtime.InteropServices;

namespace Menagerie
{
    /// <summary>
    /// Bytes where they are, in memory shared with the host: a parameter of
    /// this type is not copied. It may be returned, and is then not copied
    /// either. It is valid until the call ends.
    /// </summary>
    public sealed unsafe class View
    {
        private byte* start;
        private readonly long length;

        internal View(byte* start, long length)
        {
            this.start = start;
            this.length = length;
        }

        /// <summary>How many bytes there are.</summary>
        public long Length => length;

        /// <summary>Where they begin.</summary>
        /// <exception cref="ObjectDisposedException">The call has ended.</exception>
        public IntPtr Pointer => (IntPtr)Start;

        internal byte* Start
        {
            get
            {
                byte* at = start;
                if (at == null)
                    throw new ObjectDisposedException("Menagerie.View", "a View is valid until the call ends that it was given to; keep ToArray() instead");
                return at;
            }
        }

        /// <summary>One byte.</summary>
        /// <exception cref="IndexOutOfRangeException">There is no such byte.</exception>
        /// <exception cref="ObjectDisposedException">The call has ended.</exception>
        public byte this[long index]
        {
            get
            {
                byte* at = Start;
                if ((ulong)index >= (ulong)length)
                    throw new IndexOutOfRangeException("index " + index + " of a View of " + length + " bytes");
                return at[index];
            }
        }

        /// <summary>A copy that may be kept.</summary>
        /// <exception cref="ObjectDisposedException">The call has ended.</exception>
        public byte[] ToArray()
        {
            byte* at = Start;
            byte[] copy = new byte[length];
            Marshal.Copy((IntPtr)at, copy, 0, copy.Length);
            return copy;
        }

        // The memory is the lane's again; whoever kept the view finds out.
        internal void Close()
        {
            start = null;
        }
    }
}
