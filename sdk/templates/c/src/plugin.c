/* Lets requests pass that bring a header, and tells backend and client who looked. */

#include "sluice.h"

#define NAME "my-plugin"

static char *required;

/* Runs once for each configuration: every instance starts from the memory as it is afterwards. */
bool exports_sluice_plugin_configuration_configure(policy_string_t *config, policy_string_t *err) {
  required = sluice_config_string(config, "header");
  policy_string_free(config);
  if (required == NULL || *required == '\0') {
    /* For the operator to read. */
    policy_string_dup(err, "header is empty: name the header that requests have to bring");
    return false;
  }
  return true;
}

/* To return false lets the request go on. */
bool exports_sluice_plugin_request_headers_on_request(sluice_plugin_types_borrow_request_t request,
                                                      sluice_plugin_types_own_decision_t *ret) {
  char *value = sluice_request_header(request, required);
  if (value == NULL) {
    policy_string_t method, path;
    sluice_plugin_types_method_request_method(request, &method);
    sluice_plugin_types_method_request_path(request, &path);
    char *verb = sluice_copy(method.ptr, method.len), *target = sluice_copy(path.ptr, path.len);
    char *message = sluice_concat("refused: ", verb, " ", target, NULL);
    char *body = sluice_concat("the header ", required, " is missing\n", NULL);
    sluice_info(message);
    *ret = sluice_respond(403, body);
    free(body);
    free(message);
    free(target);
    free(verb);
    policy_string_free(&path);
    policy_string_free(&method);
    return true;
  }
  /* For the access log, and for plugins that run later. */
  sluice_set_attribute("my-plugin.value", value);
  sluice_set_request_header(request, "x-checked-by", NAME);
  free(value);
  return false;
}

bool exports_sluice_plugin_response_headers_on_response(sluice_plugin_types_borrow_request_t request,
                                                        sluice_plugin_types_borrow_response_t response,
                                                        sluice_plugin_types_own_decision_t *ret) {
  (void)request;
  (void)ret;
  sluice_set_response_header(response, "x-checked-by", NAME);
  return false;
}
