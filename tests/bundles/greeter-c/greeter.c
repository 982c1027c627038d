/* Greets people. */
#include <menagerie.h>

#include <stdlib.h>

static int write_greeting(mg_writer *out, mg_str name) {
    static const char hello[] = "Hello, ";
    size_t len = sizeof hello - 1 + name.len;
    char *text = malloc(len);
    if (!text) return MG_FAILED;
    memcpy(text, hello, sizeof hello - 1);
    if (name.len) memcpy(text + sizeof hello - 1, name.ptr, name.len);
    mg_str greeting = {text, len};
    int status = mg_write_str(out, greeting);
    free(text);
    return status;
}

static int greet(mg_call *call, void *userdata) {
    (void)userdata;
    return write_greeting(mg_result(call), mg_arg_str(call, 0));
}

static int greet_all(mg_call *call, void *userdata) {
    (void)userdata;
    mg_reader names = mg_arg_reader(call, 0);
    mg_writer *out = mg_result(call);
    size_t count;
    mg_read_list(&names, &count);
    mg_write_list(out, count);
    for (size_t i = 0; i < count; i++) {
        mg_str name;
        if (mg_read_str(&names, &name) != MG_OK)
            return mg_bad_arguments(call, "argument 'names': expected a list of strings");
        if (write_greeting(out, name) != MG_OK) return MG_FAILED;
    }
    return MG_OK;
}

int menagerie_init(const mg_host *host, mg_registrar *registrar) {
    (void)host;
    if (mg_add_function(registrar, "greeter@1", "greet", "name: string", greet, NULL)) return MG_FAILED;
    return mg_add_function(registrar, "greeter@1", "greet_all", "names: list", greet_all, NULL);
}
