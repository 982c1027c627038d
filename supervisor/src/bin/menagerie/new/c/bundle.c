/* What the bundle {{name}} does. */
#include "menagerie.h"

#include <stdlib.h>

static int greet(mg_call *call, void *userdata) {
    static const char hello[] = "Hello, ";
    mg_str name = mg_arg_str(call, 0);
    size_t len = sizeof hello - 1 + name.len;
    char *text = malloc(len);
    (void)userdata;
    if (!text) return MG_FAILED;
    memcpy(text, hello, sizeof hello - 1);
    if (name.len) memcpy(text + sizeof hello - 1, name.ptr, name.len);
    mg_str greeting = {text, len};
    int status = mg_write_str(mg_result(call), greeting);
    free(text);
    return status;
}

static int add(mg_call *call, void *userdata) {
    (void)userdata;
    return mg_return_i64(call, mg_arg_i64(call, 0) + mg_arg_i64(call, 1));
}

int menagerie_init(const mg_host *host, mg_registrar *registrar) {
    (void)host;
    if (mg_add_function(registrar, "{{name}}@1", "greet", "name: string", greet, NULL)) return MG_FAILED;
    return mg_add_function(registrar, "{{name}}@1", "add", "a: i64, b: i64", add, NULL);
}
