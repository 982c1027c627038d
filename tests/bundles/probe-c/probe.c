/* Does what tests and benchmarks ask for, good and bad. */
#define _POSIX_C_SOURCE 200809L

#include <menagerie.h>

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* A value that is kept, still encoded. */
typedef struct {
    uint8_t *ptr;
    size_t len;
} kept;

/* What was handed over from the previous generation, and what this one hands
 * over to the next. */
typedef struct {
    kept before;
    kept after;
} probe;

static probe the_probe;

static int keep(kept *place, mg_bytes value) {
    uint8_t *copy = malloc(value.len);
    if (!copy) return MG_FAILED;
    memcpy(copy, value.ptr, value.len);
    free(place->ptr);
    place->ptr = copy;
    place->len = value.len;
    return MG_OK;
}

static int return_kept(mg_call *call, const kept *place) {
    if (!place->ptr) return mg_return_null(call);
    return mg_return_raw(call, mg_bytes_of(place->ptr, place->len));
}

static int on_load(mg_call *call, void *userdata) {
    probe *self = userdata;
    char line[256];
    snprintf(line, sizeof line, "%.*s is loaded for the %u. time", (int)call->host->bundle.len,
             call->host->bundle.ptr, (unsigned)call->host->generation);
    mg_log(call->host, MG_INFO, line);
    return keep(&self->before, mg_arg_raw(call, 0));
}

static int on_unload(mg_call *call, void *userdata) {
    probe *self = userdata;
    int status = return_kept(call, &self->after);
    free(self->before.ptr);
    free(self->after.ptr);
    memset(self, 0, sizeof *self);
    return status;
}

static int inc(mg_call *call, void *userdata) {
    (void)userdata;
    return mg_return_i64(call, mg_arg_i64(call, 0) + 1);
}

static int echo(mg_call *call, void *userdata) {
    (void)userdata;
    return mg_return_raw(call, mg_arg_raw(call, 0));
}

static int fail(mg_call *call, void *userdata) {
    (void)userdata;
    mg_error error = {.type = mg_text("ProbeError"), .message = mg_arg_str(call, 0)};
    return mg_fail_with(call, &error);
}

static int crash(mg_call *call, void *userdata) {
    (void)userdata;
    volatile int *nowhere = NULL;
    return mg_return_i64(call, *nowhere);
}

static int spin(mg_call *call, void *userdata) {
    (void)call;
    (void)userdata;
    volatile int on = 1;
    while (on) {
    }
    return MG_OK;
}

static int sleep_ms(mg_call *call, void *userdata) {
    (void)userdata;
    uint64_t ms = mg_arg_u64(call, 0);
    struct timespec time = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
    while (nanosleep(&time, &time) != 0) {
    }
    return MG_OK;
}

static int null(mg_call *call, void *userdata) {
    (void)userdata;
    return mg_return_null(call);
}

static int blob(mg_call *call, void *userdata) {
    (void)userdata;
    uint64_t n = mg_arg_u64(call, 0);
    uint8_t *bytes = malloc(n ? n : 1);
    if (!bytes) return mg_fail(call, "OutOfMemory", "there is not so much memory");
    memset(bytes, 0xAB, n);
    return mg_return_owned(call, mg_bytes_of(bytes, n), free, bytes);
}

static int call_other(mg_call *call, void *userdata) {
    (void)userdata;
    mg_answer answer;
    if (mg_call_contract(call->host, mg_arg_str(call, 0), mg_arg_str(call, 1), mg_arg_raw(call, 2),
                         &answer) != MG_OK)
        return mg_fail_like_call(call);
    int status = mg_return_raw(call, answer.value);
    mg_answer_free(call->host, &answer);
    return status;
}

/* How the call failed, or null if it did not. */
static int caught(mg_call *call, void *userdata) {
    (void)userdata;
    mg_answer answer;
    if (mg_call_contract(call->host, mg_arg_str(call, 0), mg_arg_str(call, 1), mg_arg_raw(call, 2),
                         &answer) != MG_OK)
        return mg_return_str(call, mg_last_failure(call->host)->kind);
    mg_answer_free(call->host, &answer);
    return mg_return_null(call);
}

static int state(mg_call *call, void *userdata) {
    const probe *self = userdata;
    return return_kept(call, &self->before);
}

static int dir(mg_call *call, void *userdata) {
    (void)userdata;
    return mg_return_str(call, mg_text(mg_dir(call->host)));
}

static int set_state(mg_call *call, void *userdata) {
    probe *self = userdata;
    return keep(&self->after, mg_arg_raw(call, 0));
}

/* A result that cannot leave: there is no such value. */
static int misfit(mg_call *call, void *userdata) {
    (void)userdata;
    static const uint8_t nothing[] = {0xc1};
    return mg_return_raw(call, mg_bytes_of(nothing, sizeof nothing));
}

static int say(mg_call *call, void *userdata) {
    (void)userdata;
    mg_str text = mg_arg_str(call, 0);
    char line[256];
    printf("%.*s on stdout\n", (int)text.len, text.ptr);
    fprintf(stderr, "%.*s on stderr\n", (int)text.len, text.ptr);
    snprintf(line, sizeof line, "%.*s in the log", (int)text.len, text.ptr);
    mg_log(call->host, MG_WARN, line);
    return mg_return_null(call);
}

int menagerie_init(const mg_host *host, mg_registrar *registrar) {
    static const struct {
        const char *name;
        const char *params;
        mg_function function;
    } functions[] = {
        {"inc", "n: i64", inc},
        {"echo", "value: any", echo},
        {"fail", "message: string", fail},
        {"crash", "", crash},
        {"spin", "", spin},
        {"sleep_ms", "n: u64", sleep_ms},
        {"null", "", null},
        {"blob", "n: u64", blob},
        {"call", "contract: string, function: string, args: list", call_other},
        {"caught", "contract: string, function: string, args: list", caught},
        {"state", "", state},
        {"dir", "", dir},
        {"set_state", "value: any", set_state},
        {"misfit", "", misfit},
        {"say", "text: string", say},
    };
    (void)host;
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (mg_add_function(registrar, "probe@1", functions[i].name, functions[i].params,
                            functions[i].function, &the_probe) != MG_OK)
            return MG_FAILED;
    mg_on_load(registrar, on_load, &the_probe);
    return mg_on_unload(registrar, on_unload, &the_probe);
}
