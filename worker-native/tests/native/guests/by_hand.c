#include <menagerie.h>

#include <stdlib.h>

#define UNUSED (void)userdata

/* Copies a value, kind by kind. */
static int copy_value(mg_reader *in, mg_writer *out) {
    int truth;
    int64_t i;
    uint64_t u;
    double f;
    mg_str text;
    mg_bytes bytes;
    size_t len;
    switch (mg_peek(in)) {
    case MG_NULL:
        return mg_read_null(in) || mg_write_null(out);
    case MG_BOOL:
        return mg_read_bool(in, &truth) || mg_write_bool(out, truth);
    case MG_I64:
        return mg_read_i64(in, &i) || mg_write_i64(out, i);
    case MG_U64:
        return mg_read_u64(in, &u) || mg_write_u64(out, u);
    case MG_F64:
        return mg_read_f64(in, &f) || mg_write_f64(out, f);
    case MG_STRING:
        return mg_read_str(in, &text) || mg_write_str(out, text);
    case MG_BYTES:
        return mg_read_bytes(in, &bytes) || mg_write_bytes(out, bytes);
    case MG_LIST:
        if (mg_read_list(in, &len) || mg_write_list(out, len)) return MG_FAILED;
        for (; len; len--)
            if (copy_value(in, out)) return MG_FAILED;
        return MG_OK;
    case MG_MAP:
        if (mg_read_map(in, &len) || mg_write_map(out, len)) return MG_FAILED;
        for (len *= 2; len; len--)
            if (copy_value(in, out)) return MG_FAILED;
        return MG_OK;
    default:
        return MG_FAILED;
    }
}

static int copy(mg_call *call, void *userdata) {
    UNUSED;
    mg_reader in = mg_arg_reader(call, 0);
    int status = copy_value(&in, mg_result(call));
    if (mg_peek(&in) != MG_NONE) return mg_fail(call, "Error", "there is more");
    return status;
}

static int try_all(mg_call *call, void *userdata) {
    UNUSED;
    mg_reader in = mg_arg_reader(call, 0);
    int truth;
    int64_t i;
    uint64_t u;
    double f;
    mg_str text;
    mg_bytes bytes;
    size_t len;
    if (!mg_read_null(&in) || !mg_read_bool(&in, &truth) || !mg_read_i64(&in, &i) ||
        !mg_read_u64(&in, &u) || !mg_read_f64(&in, &f) || !mg_read_bytes(&in, &bytes) ||
        !mg_read_list(&in, &len) || !mg_read_map(&in, &len))
        return mg_fail(call, "Error", "another kind was read");
    if (mg_read_str(&in, &text)) return mg_fail(call, "Error", "the text is gone");
    return mg_return_str(call, text);
}

static int kinds(mg_call *call, void *userdata) {
    UNUSED;
    uint32_t count = mg_arg_count(call);
    mg_writer *out = mg_result(call);
    mg_write_list(out, count + 1);
    for (uint32_t i = 0; i <= count; i++) mg_write_u64(out, mg_arg_kind(call, i));
    return MG_OK;
}

static int first_i64(mg_call *call, void *userdata) {
    UNUSED;
    return mg_return_i64(call, mg_arg_i64(call, 0));
}

static int two_values(mg_call *call, void *userdata) {
    UNUSED;
    mg_writer *out = mg_result(call);
    return mg_write_null(out) || mg_write_null(out);
}

static int half_a_list(mg_call *call, void *userdata) {
    UNUSED;
    mg_writer *out = mg_result(call);
    return mg_write_list(out, 2) || mg_write_null(out);
}

static int broken_raw(mg_call *call, void *userdata) {
    UNUSED;
    return mg_return_raw(call, mg_bytes_of("\xc1", 1));
}

static int no_utf8(mg_call *call, void *userdata) {
    UNUSED;
    return mg_return_text(call, "\xff");
}

static int failed_only(mg_call *call, void *userdata) {
    (void)call;
    UNUSED;
    return MG_FAILED;
}

static int nothing(mg_call *call, void *userdata) {
    (void)call;
    UNUSED;
    return MG_OK;
}

static int last_result_counts(mg_call *call, void *userdata) {
    UNUSED;
    return mg_return_text(call, "one") || mg_return_i64(call, 2);
}

static int status_only(mg_call *call, void *userdata) {
    (void)call;
    UNUSED;
    return -3;
}

static int fails_but_says_ok(mg_call *call, void *userdata) {
    UNUSED;
    mg_fail(call, "Hidden", "but noticed");
    return mg_return_null(call);
}

static int refuses(mg_call *call, void *userdata) {
    UNUSED;
    return mg_bad_arguments(call, "not like this");
}

static int rich_error(mg_call *call, void *userdata) {
    UNUSED;
    mg_error causes[] = {
        {.type = mg_text("Cause"), .message = mg_text("one")},
        {.type = mg_text("Cause"), .message = mg_text("two")},
    };
    mg_error error = {
        .type = mg_text("Rich"),
        .message = mg_text("all there is"),
        .stack = mg_text("by_hand.c"),
        .code = mg_text("E1"),
        .help = mg_text("help"),
        .url = mg_text("url"),
        .inner = causes,
        .inner_len = 2,
    };
    return mg_fail_with(call, &error);
}

static int ring_of_errors(mg_call *call, void *userdata) {
    UNUSED;
    mg_error error = {.type = mg_text("Ring"), .inner_len = 1};
    error.inner = &error;
    return mg_fail_with(call, &error);
}

/* Each has the same eight causes, at every depth. */
static int tree_of_errors(mg_call *call, void *userdata) {
    UNUSED;
    static mg_error all[8];
    for (int i = 0; i < 8; i++) {
        all[i].type = mg_text("Branch");
        all[i].inner = all;
        all[i].inner_len = 8;
    }
    return mg_fail_with(call, &all[0]);
}

static int64_t releases;

static void release(void *owner) {
    releases++;
    free(owner);
}

static int owned(mg_call *call, void *userdata) {
    UNUSED;
    char *bytes = malloc(5);
    memcpy(bytes, "owned", 5);
    return mg_return_owned(call, mg_bytes_of(bytes, 5), release, bytes);
}

static int owned_then_fails(mg_call *call, void *userdata) {
    owned(call, userdata);
    return mg_fail(call, "Error", "after all");
}

static int owned_then_other(mg_call *call, void *userdata) {
    owned(call, userdata);
    return mg_return_i64(call, 5);
}

static int released(mg_call *call, void *userdata) {
    UNUSED;
    return mg_return_i64(call, releases);
}

static int view(mg_call *call, void *userdata) {
    UNUSED;
    static char bytes[10000];
    memset(bytes, 'v', sizeof bytes);
    return mg_return_view(call, mg_bytes_of(bytes, sizeof bytes));
}

static int view_of_nothing(mg_call *call, void *userdata) {
    UNUSED;
    return mg_return_view(call, mg_bytes_of(NULL, 0));
}

int menagerie_init(const mg_host *host, mg_registrar *registrar) {
#define ADD(function) mg_add_function(registrar, "by_hand@1", #function, NULL, function, NULL)
    (void)host;
    return ADD(copy) || ADD(try_all) || ADD(kinds) || ADD(first_i64) || ADD(two_values) ||
           ADD(half_a_list) || ADD(broken_raw) || ADD(no_utf8) || ADD(nothing) ||
           ADD(last_result_counts) || ADD(status_only) || ADD(fails_but_says_ok) || ADD(refuses) ||
           ADD(failed_only) || ADD(tree_of_errors) ||
           ADD(rich_error) || ADD(ring_of_errors) || ADD(owned) || ADD(owned_then_fails) ||
           ADD(owned_then_other) || ADD(released) || ADD(view) || ADD(view_of_nothing);
}
