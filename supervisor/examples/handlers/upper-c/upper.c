/* Says the path in capital letters. After a change: scripts/build-native-bundles. */
#include <menagerie.h>

#include <stdlib.h>

static int get(mg_call *call, void *userdata) {
    (void)userdata;
    mg_str path = mg_arg_str(call, 0);
    char *text = malloc(path.len + 2);
    if (!text) return MG_FAILED;
    for (size_t i = 0; i < path.len; i++) {
        char letter = path.ptr[i];
        text[i] = letter >= 'a' && letter <= 'z' ? (char)(letter - 'a' + 'A') : letter;
    }
    text[path.len] = '!';
    text[path.len + 1] = '\n';
    mg_str answer = {text, path.len + 2};
    int status = mg_return_str(call, answer);
    free(text);
    return status;
}

int menagerie_init(const mg_host *host, mg_registrar *registrar) {
    (void)host;
    return mg_add_function(registrar, "handler@1", "get", "path: string", get, NULL);
}
