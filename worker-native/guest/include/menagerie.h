/*
 * menagerie.h: native Menagerie bundles in C and C++.
 *
 * A bundle is a shared library with one entry, menagerie_init, which adds the
 * functions of its contracts:
 *
 *     #include <menagerie.h>
 *
 *     static int inc(mg_call *call, void *userdata) {
 *         (void)userdata;
 *         return mg_return_i64(call, mg_arg_i64(call, 0) + 1);
 *     }
 *
 *     int menagerie_init(const mg_host *host, mg_registrar *registrar) {
 *         (void)host;
 *         return mg_add_function(registrar, "counter@1", "inc", "n: i64", inc, NULL);
 *     }
 *
 *     cc -shared -fPIC -O2 -I DIR_OF_THIS_FILE counter.c -o libcounter.so
 *
 * Values are MessagePack: null, bool, i64, u64, f64, string (UTF-8), bytes,
 * list, map. Small functions never see the encoding (mg_arg_..., mg_return_...);
 * lists and maps are read and written with cursors (mg_read_..., mg_write_...).
 *
 * Threads: everything happens on one thread, the bundle's own. Only mg_log may
 * be used from other threads. Threads that the library starts must have ended
 * when its on_unload hook returns, because its code is unmapped after that.
 *
 * Memory: nobody frees what the other side allocated. What the worker hands out
 * is valid until the function returns, unless it says otherwise.
 *
 * C++: exceptions must not leave a function. Compile with -fno-gnu-unique, or
 * the C++ runtime keeps the library mapped for ever.
 *
 * This header is C99 and C++11, and needs nothing to link against.
 */
#ifndef MENAGERIE_H
#define MENAGERIE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * The version of everything below, major in the upper 16 bits, minor in the
 * lower. A worker takes libraries of its own major and of a minor that is not
 * newer than its own: a minor version only appends to mg_host.
 */
#define MENAGERIE_ABI_MAJOR 1u
#define MENAGERIE_ABI_MINOR 1u
#define MENAGERIE_ABI_VERSION ((MENAGERIE_ABI_MAJOR << 16) | MENAGERIE_ABI_MINOR)

#define MG_EXPORT __attribute__((visibility("default")))

/*
 * What the worker reads before it calls anything. It is weak, so that several
 * source files of one library may include this header.
 */
extern MG_EXPORT __attribute__((weak)) const uint32_t menagerie_abi_version;
const uint32_t menagerie_abi_version = MENAGERIE_ABI_VERSION;

/* ------------------------------------------------------------------ data */

typedef struct mg_host mg_host;           /* the worker, for one generation */
typedef struct mg_registrar mg_registrar; /* where functions are added */
typedef struct mg_call mg_call;           /* one call that runs */
typedef struct mg_reader mg_reader;
typedef struct mg_writer mg_writer;
typedef struct mg_error mg_error;

/* UTF-8 text of `len` bytes, not NUL-terminated. */
typedef struct mg_str {
    const char *ptr;
    size_t len;
} mg_str;

/* Bytes. */
typedef struct mg_bytes {
    const uint8_t *ptr;
    size_t len;
} mg_bytes;

/* What functions return: MG_OK or anything else. */
enum { MG_OK = 0, MG_FAILED = 1 };

/* The kinds of values. MG_NONE: there is no value, or it is no MessagePack. */
enum {
    MG_NONE = 0,
    MG_NULL = 1,
    MG_BOOL = 2,
    MG_I64 = 3, /* an integer that fits int64_t */
    MG_U64 = 4, /* an integer above INT64_MAX */
    MG_F64 = 5,
    MG_STRING = 6,
    MG_BYTES = 7,
    MG_LIST = 8,
    MG_MAP = 9
};

/* The levels of mg_log. */
enum { MG_TRACE = 0, MG_DEBUG = 1, MG_INFO = 2, MG_WARN = 3, MG_ERROR = 4 };

/*
 * A function of a contract, or a hook. It returns MG_OK after one of the
 * mg_return_... (after none of them the result is null), or MG_FAILED after
 * mg_fail or mg_bad_arguments.
 */
typedef int (*mg_function)(mg_call *call, void *userdata);

/* An error; unused fields are {NULL, 0}. */
struct mg_error {
    mg_str type;           /* e.g. "ImageError" */
    mg_str message;        /* what people read */
    mg_str stack;          /* where it happened */
    mg_str code;           /* what programs read */
    mg_str help;           /* how to get out of it */
    mg_str url;            /* where to read on */
    const mg_error *inner; /* causes, outermost first */
    size_t inner_len;
};

/* Why a call to another contract ended without a value. */
typedef struct mg_failure {
    mg_str kind;           /* "Guest", "NoSuchContract", "DeadlineExceeded", ... */
    mg_str message;        /* what people read */
    const mg_error *guest; /* the callee's own error, if kind is "Guest"; else NULL */
} mg_failure;

/* The answer of a call to another contract: one MessagePack value. */
typedef struct mg_answer {
    mg_bytes value;
    void *owner; /* the worker's */
} mg_answer;

/* A cursor over MessagePack values. */
struct mg_reader {
    const mg_host *host;
    const uint8_t *at;
    const uint8_t *end;
};

/* MessagePack values under construction. The worker owns the memory. */
struct mg_writer {
    const mg_host *host;
    uint8_t *data;
    size_t len;
    size_t capacity;
};

/* One call; use the functions below. More fields follow that are the worker's. */
struct mg_call {
    const mg_host *host;
    mg_bytes args;    /* the arguments: one MessagePack list */
    mg_writer result; /* see mg_result */
};

/* Where functions are added; more fields follow that are the worker's. */
struct mg_registrar {
    const mg_host *host;
};

/* The worker, as a table. The wrappers below are the readable way to it. */
struct mg_host {
    uint32_t abi_version; /* the worker's MENAGERIE_ABI_VERSION */
    uint32_t generation;  /* how many times the bundle has been loaded */
    mg_str bundle;        /* the bundle's name */

    void (*log)(const mg_host *host, uint32_t level, mg_str message);

    int (*add_function)(mg_registrar *registrar, mg_str contract, mg_str name, mg_str params,
                        mg_function function, void *userdata);
    int (*on_load)(mg_registrar *registrar, mg_function hook, void *userdata);
    int (*on_unload)(mg_registrar *registrar, mg_function hook, void *userdata);
    int (*init_failed)(mg_registrar *registrar, const mg_error *error);

    uint32_t (*arg_count)(mg_call *call);
    uint32_t (*arg_kind)(mg_call *call, uint32_t index);
    int (*arg_bool)(mg_call *call, uint32_t index);
    int64_t (*arg_i64)(mg_call *call, uint32_t index);
    uint64_t (*arg_u64)(mg_call *call, uint32_t index);
    double (*arg_f64)(mg_call *call, uint32_t index);
    mg_str (*arg_str)(mg_call *call, uint32_t index);
    mg_bytes (*arg_bytes)(mg_call *call, uint32_t index);
    mg_bytes (*arg_raw)(mg_call *call, uint32_t index);

    mg_writer *(*result)(mg_call *call);
    int (*return_bytes)(mg_call *call, mg_bytes bytes);
    int (*return_raw)(mg_call *call, mg_bytes value);
    int (*return_view)(mg_call *call, mg_bytes bytes, void (*release)(void *), void *owner);
    int (*fail)(mg_call *call, const mg_error *error);
    int (*bad_arguments)(mg_call *call, mg_str message);

    uint32_t (*peek)(const mg_reader *reader);
    int (*read_null)(mg_reader *reader);
    int (*read_bool)(mg_reader *reader, int *value);
    int (*read_i64)(mg_reader *reader, int64_t *value);
    int (*read_u64)(mg_reader *reader, uint64_t *value);
    int (*read_f64)(mg_reader *reader, double *value);
    int (*read_str)(mg_reader *reader, mg_str *value);
    int (*read_bytes)(mg_reader *reader, mg_bytes *value);
    int (*read_list)(mg_reader *reader, size_t *len);
    int (*read_map)(mg_reader *reader, size_t *len);
    int (*read_raw)(mg_reader *reader, mg_bytes *value);

    int (*reserve)(mg_writer *writer, size_t more);
    int (*write_null)(mg_writer *writer);
    int (*write_bool)(mg_writer *writer, int value);
    int (*write_i64)(mg_writer *writer, int64_t value);
    int (*write_u64)(mg_writer *writer, uint64_t value);
    int (*write_f64)(mg_writer *writer, double value);
    int (*write_str)(mg_writer *writer, mg_str value);
    int (*write_bytes)(mg_writer *writer, mg_bytes value);
    int (*write_list)(mg_writer *writer, size_t len);
    int (*write_map)(mg_writer *writer, size_t len);
    int (*write_raw)(mg_writer *writer, mg_bytes value);
    mg_writer *(*writer_new)(const mg_host *host);
    void (*writer_free)(mg_writer *writer);

    int (*call)(const mg_host *host, mg_str contract, mg_str function, mg_bytes args,
                mg_answer *answer);
    void (*answer_free)(mg_answer *answer);
    const mg_failure *(*failure)(const mg_host *host);

    mg_str dir; /* see mg_dir; since 1.1 */
};

/*
 * The entry, which the library defines. It adds functions and hooks, and
 * returns MG_OK, or MG_FAILED after mg_init_failed.
 */
MG_EXPORT int menagerie_init(const mg_host *host, mg_registrar *registrar);

/* ------------------------------------------------------------- small help */

/* A NUL-terminated text as mg_str; NULL is {NULL, 0}. */
static inline mg_str mg_text(const char *text) {
    mg_str str;
    str.ptr = text;
    str.len = text ? strlen(text) : 0;
    return str;
}

/* `len` bytes at `ptr` as mg_bytes. */
static inline mg_bytes mg_bytes_of(const void *ptr, size_t len) {
    mg_bytes bytes;
    bytes.ptr = (const uint8_t *)ptr;
    bytes.len = len;
    return bytes;
}

/* Writes a line into the bundle's log; from any thread. */
static inline void mg_log(const mg_host *host, uint32_t level, const char *message) {
    host->log(host, level, mg_text(message));
}

/*
 * The bundle's folder, as an absolute path: files beside the library are there. The
 * worker's current folder is another one. It ends in a zero byte, and stays where it is
 * as long as the library. Of a signed bundle, and of one with replicas, it is a private
 * copy of the folder.
 */
static inline const char *mg_dir(const mg_host *host) { return host->dir.ptr; }

/* ----------------------------------------------------------- registration */

/*
 * Adds a function to a contract ("greeter@1"). Function names are snake_case.
 *
 * `params` names the parameters and their kinds: "name: string, times: i64".
 * The kinds are bool, i64, u64, f64, string, bytes, list, map and any; "" means
 * that there are no parameters. Calls with other arguments are refused as
 * BadArguments before the function runs, so it need not check them again. With
 * NULL nothing is checked.
 */
static inline int mg_add_function(mg_registrar *registrar, const char *contract, const char *name,
                                  const char *params, mg_function function, void *userdata) {
    return registrar->host->add_function(registrar, mg_text(contract), mg_text(name),
                                         mg_text(params), function, userdata);
}

/*
 * Sets the hook that runs before the first call. Its one argument is the state:
 * the value that the previous generation's on_unload returned, or null.
 */
static inline int mg_on_load(mg_registrar *registrar, mg_function hook, void *userdata) {
    return registrar->host->on_load(registrar, hook, userdata);
}

/*
 * Sets the hook that runs after the last call. At a reload the value that it
 * returns is the state that the next generation's on_load gets.
 */
static inline int mg_on_unload(mg_registrar *registrar, mg_function hook, void *userdata) {
    return registrar->host->on_unload(registrar, hook, userdata);
}

/* Says why menagerie_init fails. Use: return mg_init_failed(...). */
static inline int mg_init_failed(mg_registrar *registrar, const char *type, const char *message) {
    mg_error error;
    memset(&error, 0, sizeof error);
    error.type = mg_text(type);
    error.message = mg_text(message);
    return registrar->host->init_failed(registrar, &error);
}

/* -------------------------------------------------------------- arguments */

/*
 * Arguments count from 0. The getter has to fit the kind in `params` (or, for
 * "any", what mg_arg_kind says): one that does not fit returns 0 or an empty
 * value, and the call fails with an error that tells of the mistake.
 * Text and bytes are views of the arguments, valid until the function returns.
 */

/* How many arguments there are. */
static inline uint32_t mg_arg_count(mg_call *call) { return call->host->arg_count(call); }

/* The kind of an argument, MG_NONE if there are not so many. */
static inline uint32_t mg_arg_kind(mg_call *call, uint32_t index) {
    return call->host->arg_kind(call, index);
}

/* A bool: 0 or 1. */
static inline int mg_arg_bool(mg_call *call, uint32_t index) {
    return call->host->arg_bool(call, index);
}

/* An integer that fits int64_t. */
static inline int64_t mg_arg_i64(mg_call *call, uint32_t index) {
    return call->host->arg_i64(call, index);
}

/* An integer that is not negative. */
static inline uint64_t mg_arg_u64(mg_call *call, uint32_t index) {
    return call->host->arg_u64(call, index);
}

/* A float, or an integer that a double holds exactly. */
static inline double mg_arg_f64(mg_call *call, uint32_t index) {
    return call->host->arg_f64(call, index);
}

/* Text. */
static inline mg_str mg_arg_str(mg_call *call, uint32_t index) {
    return call->host->arg_str(call, index);
}

/* Bytes. */
static inline mg_bytes mg_arg_bytes(mg_call *call, uint32_t index) {
    return call->host->arg_bytes(call, index);
}

/* An argument of any kind as it was encoded: one MessagePack value. */
static inline mg_bytes mg_arg_raw(mg_call *call, uint32_t index) {
    return call->host->arg_raw(call, index);
}

/* ----------------------------------------------------------------- cursors */

/* A cursor at the beginning of encoded values. */
static inline mg_reader mg_reader_of(const mg_host *host, mg_bytes values) {
    mg_reader reader;
    reader.host = host;
    reader.at = values.ptr;
    reader.end = values.ptr + values.len;
    return reader;
}

/* A cursor at an argument: mg_read_list, then as many mg_read_... */
static inline mg_reader mg_arg_reader(mg_call *call, uint32_t index) {
    return mg_reader_of(call->host, mg_arg_raw(call, index));
}

/* The kind of the next value, MG_NONE at the end. */
static inline uint32_t mg_peek(const mg_reader *reader) { return reader->host->peek(reader); }

/*
 * Each of these reads the next value and returns MG_OK; if it is of another
 * kind it returns MG_FAILED and the cursor stays where it is.
 */
static inline int mg_read_null(mg_reader *reader) { return reader->host->read_null(reader); }
static inline int mg_read_bool(mg_reader *reader, int *value) {
    return reader->host->read_bool(reader, value);
}
static inline int mg_read_i64(mg_reader *reader, int64_t *value) {
    return reader->host->read_i64(reader, value);
}
static inline int mg_read_u64(mg_reader *reader, uint64_t *value) {
    return reader->host->read_u64(reader, value);
}
static inline int mg_read_f64(mg_reader *reader, double *value) {
    return reader->host->read_f64(reader, value);
}
static inline int mg_read_str(mg_reader *reader, mg_str *value) {
    return reader->host->read_str(reader, value);
}
static inline int mg_read_bytes(mg_reader *reader, mg_bytes *value) {
    return reader->host->read_bytes(reader, value);
}
/* The head of a list; `*len` values follow. */
static inline int mg_read_list(mg_reader *reader, size_t *len) {
    return reader->host->read_list(reader, len);
}
/* The head of a map; `*len` pairs of key and value follow. */
static inline int mg_read_map(mg_reader *reader, size_t *len) {
    return reader->host->read_map(reader, len);
}
/* A whole value of any kind, as it is encoded; also the way to skip one. */
static inline int mg_read_raw(mg_reader *reader, mg_bytes *value) {
    return reader->host->read_raw(reader, value);
}

/*
 * Each of these appends a value and returns MG_OK; mg_write_str appends nothing and
 * returns MG_FAILED if the text is no UTF-8. A function that passes that on without an
 * error of its own fails with a MenagerieMisuse that says so.
 */
static inline int mg_write_null(mg_writer *writer) { return writer->host->write_null(writer); }
static inline int mg_write_bool(mg_writer *writer, int value) {
    return writer->host->write_bool(writer, value);
}
static inline int mg_write_i64(mg_writer *writer, int64_t value) {
    return writer->host->write_i64(writer, value);
}
static inline int mg_write_u64(mg_writer *writer, uint64_t value) {
    return writer->host->write_u64(writer, value);
}
static inline int mg_write_f64(mg_writer *writer, double value) {
    return writer->host->write_f64(writer, value);
}
static inline int mg_write_str(mg_writer *writer, mg_str value) {
    return writer->host->write_str(writer, value);
}
static inline int mg_write_bytes(mg_writer *writer, mg_bytes value) {
    return writer->host->write_bytes(writer, value);
}
/* The head of a list; write exactly `len` values after it. */
static inline int mg_write_list(mg_writer *writer, size_t len) {
    return writer->host->write_list(writer, len);
}
/* The head of a map; write exactly `len` pairs of key and value after it. */
static inline int mg_write_map(mg_writer *writer, size_t len) {
    return writer->host->write_map(writer, len);
}
/* A value that is encoded already. */
static inline int mg_write_raw(mg_writer *writer, mg_bytes value) {
    return writer->host->write_raw(writer, value);
}

/* A writer of one's own, for the arguments of mg_call_contract. */
static inline mg_writer *mg_writer_new(const mg_host *host) { return host->writer_new(host); }
static inline void mg_writer_free(mg_writer *writer) { writer->host->writer_free(writer); }

/* What was written so far. */
static inline mg_bytes mg_written(const mg_writer *writer) {
    return mg_bytes_of(writer->data, writer->len);
}

/* ----------------------------------------------------------------- results */

/* All of these return MG_OK; use: return mg_return_i64(call, n). */

/* The writer of the result, empty: for lists and maps. Exactly one value. */
static inline mg_writer *mg_result(mg_call *call) { return call->host->result(call); }

static inline int mg_return_null(mg_call *call) { return mg_write_null(mg_result(call)); }
static inline int mg_return_bool(mg_call *call, int value) {
    return mg_write_bool(mg_result(call), value);
}
static inline int mg_return_i64(mg_call *call, int64_t value) {
    return mg_write_i64(mg_result(call), value);
}
static inline int mg_return_u64(mg_call *call, uint64_t value) {
    return mg_write_u64(mg_result(call), value);
}
static inline int mg_return_f64(mg_call *call, double value) {
    return mg_write_f64(mg_result(call), value);
}
static inline int mg_return_str(mg_call *call, mg_str value) {
    return mg_write_str(mg_result(call), value);
}
static inline int mg_return_text(mg_call *call, const char *value) {
    return mg_return_str(call, mg_text(value));
}

/* Bytes, copied at once (views of the call's own arguments are not copied). */
static inline int mg_return_bytes(mg_call *call, mg_bytes bytes) {
    return call->host->return_bytes(call, bytes);
}

/* A value that is encoded already, e.g. from mg_arg_raw; copied likewise. */
static inline int mg_return_raw(mg_call *call, mg_bytes value) {
    return call->host->return_raw(call, value);
}

/*
 * Bytes that stay where they are until the answer is sent, which is after the
 * function has returned: for large ones, which then are copied only once.
 */
static inline int mg_return_view(mg_call *call, mg_bytes bytes) {
    return call->host->return_view(call, bytes, NULL, NULL);
}

/* Likewise; then `release(owner)` is called: mg_return_owned(call, b, free, p). */
static inline int mg_return_owned(mg_call *call, mg_bytes bytes, void (*release)(void *),
                                  void *owner) {
    return call->host->return_view(call, bytes, release, owner);
}

/* Ends the call with an error. Returns MG_FAILED. */
static inline int mg_fail(mg_call *call, const char *type, const char *message) {
    mg_error error;
    memset(&error, 0, sizeof error);
    error.type = mg_text(type);
    error.message = mg_text(message);
    return call->host->fail(call, &error);
}

/* Likewise with all that an error can have. */
static inline int mg_fail_with(mg_call *call, const mg_error *error) {
    return call->host->fail(call, error);
}

/* Refuses the arguments, beyond what `params` says. Returns MG_FAILED. */
static inline int mg_bad_arguments(mg_call *call, const char *message) {
    return call->host->bad_arguments(call, mg_text(message));
}

/* ------------------------------------------------- calls to other contracts */

/*
 * Calls another bundle's contract, or the host's, which the manifest has to
 * declare as a [[dependency]], and waits for the answer. `args` is one
 * MessagePack list. On MG_OK `answer->value` is valid until mg_answer_free; on
 * MG_FAILED mg_last_failure tells why. Only on the bundle's own thread.
 */
static inline int mg_call_contract(const mg_host *host, mg_str contract, mg_str function,
                                   mg_bytes args, mg_answer *answer) {
    return host->call(host, contract, function, args, answer);
}

static inline void mg_answer_free(const mg_host *host, mg_answer *answer) {
    host->answer_free(answer);
}

/* Why the last mg_call_contract failed; valid until the next one. */
static inline const mg_failure *mg_last_failure(const mg_host *host) {
    return host->failure(host);
}

/* Ends the call with the last failure, as an error of the type CallError. */
static inline int mg_fail_like_call(mg_call *call) {
    const mg_failure *failure = mg_last_failure(call->host);
    mg_error error;
    memset(&error, 0, sizeof error);
    error.type = mg_text("CallError");
    error.message = failure->message;
    error.code = failure->kind;
    error.inner = failure->guest;
    error.inner_len = failure->guest ? 1 : 0;
    return mg_fail_with(call, &error);
}

#ifdef __cplusplus
}
#endif

#endif
