using System;
using System.Runtime.InteropServices;

namespace Menagerie.Bridge
{
    // The structs and functions that src/abi.rs declares too. A change here is
    // a change there.

    /// <summary>What an entry point answers with.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct Outcome
    {
        /// <summary>MessagePack or text, in the bundle's own buffer.</summary>
        public byte* Head;

        /// <summary>Its length.</summary>
        public long HeadLength;

        /// <summary>Bytes that follow the head, elsewhere.</summary>
        public byte* Body;

        /// <summary>Their length.</summary>
        public long BodyLength;

        /// <summary>A new bundle; or not null if the body is pinned, until Unpin.</summary>
        public IntPtr Handle;
    }

    /// <summary>The kinds of outcome.</summary>
    internal static class Result
    {
        internal const int Ok = 0;
        internal const int GuestError = 1;   // the head is an error
        internal const int BadArguments = 2; // the head is a text
        internal const int LoadFailed = 3;   // the head is [step, error]
        internal const int TooLarge = 4;     // the head is the size, so far
    }

    /// <summary>What to load.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct LoadRequest
    {
        /// <summary>The lane's number in this worker.</summary>
        public ulong Lane;

        /// <summary>How many bytes a value may take.</summary>
        public long MaxPayload;

        /// <summary>How many bytes a state may take.</summary>
        public long MaxState;

        /// <summary>[bundle, generation, directory or null]</summary>
        public byte* Head;

        /// <summary>Its length.</summary>
        public long HeadLength;

        /// <summary>The assembly.</summary>
        public byte* Image;

        /// <summary>Its length.</summary>
        public long ImageLength;

        /// <summary>Its debug information, or null.</summary>
        public byte* Symbols;

        /// <summary>Its length.</summary>
        public long SymbolsLength;
    }

    /// <summary>The answer to a call that a guest made.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct Answer
    {
        /// <summary>0: Data is a value; 1: a failure, [kind, message, error or null]; 2: this is not the lane's thread. Of a file: 0: Data is what is in it; 1: Data is a text; 3: there is none.</summary>
        public int Kind;

        /// <summary>MessagePack, if nothing else is said; Rust's until FreeAnswer.</summary>
        public byte* Data;

        /// <summary>Its length.</summary>
        public long Length;
    }

    /// <summary>Rust's functions for the bridge.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct Callbacks
    {
        /// <summary>A <see cref="LogFunction"/>.</summary>
        public IntPtr Log;

        /// <summary>A <see cref="CallFunction"/>.</summary>
        public IntPtr Call;

        /// <summary>A <see cref="ReadFunction"/>.</summary>
        public IntPtr Read;

        /// <summary>A <see cref="FreeAnswerFunction"/>.</summary>
        public IntPtr FreeAnswer;

        /// <summary>A <see cref="WorkForFunction"/>.</summary>
        public IntPtr WorkFor;
    }

    [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
    internal unsafe delegate void LogFunction(ulong lane, int level, byte* target, long targetLength, byte* message, long messageLength);

    // Head is [contract, function]; arguments are one MessagePack list.
    [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
    internal unsafe delegate void CallFunction(ulong lane, byte* head, long headLength, byte* arguments, long argumentsLength, Answer* answer);

    // The bundle's folder, and a file in it.
    [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
    internal unsafe delegate void ReadFunction(byte* folder, long folderLength, byte* file, long fileLength, Answer* answer);

    [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
    internal unsafe delegate void FreeAnswerFunction(Answer* answer);

    // The lane that this thread works for, or 0.
    [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
    internal delegate void WorkForFunction(ulong lane);
}
