/*
 * What plugins in C need besides the contract itself: text in and out of it, answers, and the configuration's strings.
 *
 * The contract's own functions come from policy.h, which `sluice plugin build` makes of world.wit. What they hand out (a
 * policy_string_t or policy_list_u8_t behind a pointer) is the plugin's to free.
 */
#ifndef SLUICE_H
#define SLUICE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "policy.h"

/* Text, and the same as bytes, as the contract takes it. Nothing is copied: it has to live for as long as the call. */
static inline policy_string_t sluice_string(const char *text) {
  policy_string_t string;
  policy_string_set(&string, text);
  return string;
}

static inline policy_list_u8_t sluice_bytes(const char *text) {
  policy_list_u8_t bytes = {(uint8_t *)text, strlen(text)};
  return bytes;
}

/* The texts one after the other, up to NULL; to be freed. An instance that gets no memory ends here. */
static inline char *sluice_concat(const char *first, ...) {
  va_list texts;
  size_t length = 0;
  va_start(texts, first);
  for (const char *text = first; text != NULL; text = va_arg(texts, const char *)) {
    length += strlen(text);
  }
  va_end(texts);
  char *whole = malloc(length + 1);
  if (whole == NULL) {
    __builtin_trap();
  }
  char *at = whole;
  va_start(texts, first);
  for (const char *text = first; text != NULL; text = va_arg(texts, const char *)) {
    size_t part = strlen(text);
    memcpy(at, text, part);
    at += part;
  }
  va_end(texts);
  *at = '\0';
  return whole;
}

/* A copy with a NUL at its end; to be freed. A NUL inside ends it early. */
static inline char *sluice_copy(const void *bytes, size_t length) {
  char *copy = malloc(length + 1);
  if (copy == NULL) {
    __builtin_trap();
  }
  memcpy(copy, bytes, length);
  copy[length] = '\0';
  return copy;
}

static inline void sluice_info(const char *message) {
  policy_string_t text = sluice_string(message);
  sluice_plugin_logging_info(&text);
}

static inline void sluice_error(const char *message) {
  policy_string_t text = sluice_string(message);
  sluice_plugin_logging_error(&text);
}

/* Logs why the gateway refused something, and frees the reason. */
static inline void sluice_refused(const char *what, policy_string_t *reason) {
  char *copy = sluice_copy(reason->ptr, reason->len);
  char *message = sluice_concat(what, ": ", copy, NULL);
  sluice_error(message);
  free(message);
  free(copy);
  policy_string_free(reason);
}

/* The first value of a request's header; NULL where there is none, else to be freed. */
static inline char *sluice_request_header(sluice_plugin_types_borrow_request_t request, const char *name) {
  policy_string_t header = sluice_string(name);
  policy_list_u8_t value;
  if (!sluice_plugin_types_method_request_header(request, &header, &value)) {
    return NULL;
  }
  char *copy = sluice_copy(value.ptr, value.len);
  policy_list_u8_free(&value);
  return copy;
}

/* Sets a header; a refusal is logged. */
static inline void sluice_set_request_header(sluice_plugin_types_borrow_request_t request, const char *name, const char *value) {
  policy_string_t header = sluice_string(name), reason;
  policy_list_u8_t bytes = sluice_bytes(value);
  if (!sluice_plugin_types_method_request_set_header(request, &header, &bytes, &reason)) {
    sluice_refused(name, &reason);
  }
}

static inline void sluice_set_response_header(sluice_plugin_types_borrow_response_t response, const char *name, const char *value) {
  policy_string_t header = sluice_string(name), reason;
  policy_list_u8_t bytes = sluice_bytes(value);
  if (!sluice_plugin_types_method_response_set_header(response, &header, &bytes, &reason)) {
    sluice_refused(name, &reason);
  }
}

/* Sets an attribute of type string; a refusal is logged. */
static inline void sluice_set_attribute(const char *name, const char *value) {
  policy_string_t attribute = sluice_string(name), text = sluice_string(value), reason;
  if (!sluice_plugin_attributes_set_string(&attribute, &text, &reason)) {
    sluice_refused(name, &reason);
  }
}

/* A decision to answer now, with plain text. */
static inline sluice_plugin_types_own_decision_t sluice_respond(uint16_t status, const char *body) {
  sluice_plugin_types_own_local_reply_t reply = sluice_plugin_types_constructor_local_reply(status);
  sluice_plugin_types_borrow_local_reply_t borrowed = sluice_plugin_types_borrow_local_reply(reply);
  policy_string_t name = sluice_string("content-type"), reason;
  policy_list_u8_t value = sluice_bytes("text/plain; charset=utf-8"), content = sluice_bytes(body);
  if (!sluice_plugin_types_method_local_reply_set_header(borrowed, &name, &value, &reason)) {
    sluice_refused("content-type", &reason);
  }
  if (!sluice_plugin_types_method_local_reply_set_body(borrowed, &content, &reason)) {
    sluice_refused("the body", &reason);
  }
  return sluice_plugin_types_static_decision_respond(reply);
}

static inline const char *sluice_json_space(const char *at, const char *end) {
  while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r')) {
    at++;
  }
  return at;
}

/* Behind the value that begins here. */
static inline const char *sluice_json_skip(const char *at, const char *end) {
  unsigned depth = 0;
  for (; at < end; at++) {
    if (*at == '"') {
      for (at++; at < end && *at != '"'; at++) {
        if (*at == '\\') {
          at++;
        }
      }
    } else if (*at == '{' || *at == '[') {
      depth++;
    } else if (*at == '}' || *at == ']' || *at == ',') {
      if (depth == 0) {
        return at;
      }
      depth -= *at != ',';
    }
  }
  return end;
}

static inline uint32_t sluice_json_hex(const char *at, const char *end) {
  uint32_t value = 0;
  for (const char *digit = at; digit < at + 4 && digit < end; digit++) {
    uint32_t low = (uint32_t)(*digit | 0x20);
    value = value << 4 | (low >= 'a' ? low - 'a' + 10 : low - '0');
  }
  return value & 0xffff;
}

/* The string whose first quote is before `at`, decoded; to be freed. */
static inline char *sluice_json_text(const char *at, const char *end) {
  /* What is decoded is never longer than what it is decoded from. */
  char *text = sluice_copy(at, (size_t)(end - at)), *out = text;
  while (at < end && *at != '"') {
    if (*at != '\\' || at + 1 >= end) {
      *out++ = *at++;
      continue;
    }
    char escaped = at[1];
    at += 2;
    if (escaped != 'u') {
      const char *from = "bfnrt", *to = "\b\f\n\r\t", *found = strchr(from, escaped);
      *out++ = found == NULL ? escaped : to[found - from];
      continue;
    }
    uint32_t point = sluice_json_hex(at, end);
    at += at + 4 <= end ? 4 : end - at;
    if (point >= 0xd800 && point < 0xdc00 && at + 6 <= end && at[0] == '\\' && at[1] == 'u') {
      point = 0x10000 + ((point - 0xd800) << 10) + ((sluice_json_hex(at + 2, end) - 0xdc00) & 0x3ff);
      at += 6;
    }
    if (point < 0x80) {
      *out++ = (char)point;
    } else if (point < 0x800) {
      *out++ = (char)(0xc0 | point >> 6);
      *out++ = (char)(0x80 | (point & 0x3f));
    } else if (point < 0x10000) {
      *out++ = (char)(0xe0 | point >> 12);
      *out++ = (char)(0x80 | (point >> 6 & 0x3f));
      *out++ = (char)(0x80 | (point & 0x3f));
    } else {
      *out++ = (char)(0xf0 | point >> 18);
      *out++ = (char)(0x80 | (point >> 12 & 0x3f));
      *out++ = (char)(0x80 | (point >> 6 & 0x3f));
      *out++ = (char)(0x80 | (point & 0x3f));
    }
  }
  *out = '\0';
  return text;
}

/*
 * A string of a configuration, by its member's name; NULL where there is no such member, or it is no string, else to be
 * freed. The gateway hands over valid JSON that fits the schema. For more than that, link a JSON library.
 */
static inline char *sluice_config_string(const policy_string_t *config, const char *member) {
  const char *at = (const char *)config->ptr, *end = at + config->len;
  at = sluice_json_space(at, end);
  if (at >= end || *at++ != '{') {
    return NULL;
  }
  while ((at = sluice_json_space(at, end)) < end && *at == '"') {
    char *name = sluice_json_text(at + 1, end);
    bool found = strcmp(name, member) == 0;
    free(name);
    /* Behind the name, its colon and the space around it. */
    for (at++; at < end && *at != '"'; at++) {
      if (*at == '\\') {
        at++;
      }
    }
    at = at < end ? sluice_json_space(at + 1, end) : end;
    at = at < end ? sluice_json_space(at + 1, end) : end;
    if (found) {
      return at < end && *at == '"' ? sluice_json_text(at + 1, end) : NULL;
    }
    at = sluice_json_skip(at, end);
    if (at < end) {
      at++;
    }
  }
  return NULL;
}

#endif
