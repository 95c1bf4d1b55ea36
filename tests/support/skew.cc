// SPDX-License-Identifier: Apache-2.0
// Preloaded (LD_PRELOAD) into a program that a test starts: its wall clock is MAINSTAY_TEST_SKEW seconds wrong.
//
// What the kernel compares with its own clock (absolute deadlines of futexes, with which Abseil and glibc wait) is put
// right again on the way in, as it would be on a machine whose clock is wrong.
#include <dlfcn.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdlib>

namespace {

time_t Skew() {
  static const time_t skew = [] {
    const char* text = getenv("MAINSTAY_TEST_SKEW");
    return text == nullptr ? 0 : strtol(text, nullptr, 10);
  }();
  return skew;
}

template <typename Function>
Function* Real(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

timespec Right(const timespec& wrong) {
  return {.tv_sec = wrong.tv_sec - Skew(), .tv_nsec = wrong.tv_nsec};
}

}  // namespace

extern "C" {

int clock_gettime(clockid_t clock, timespec* now) noexcept {
  static const auto real = Real<int(clockid_t, timespec*)>("clock_gettime");
  const int result = real(clock, now);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += Skew();
  return result;
}
int gettimeofday(timeval* now, void* zone) noexcept {
  static const auto real = Real<int(timeval*, void*)>("gettimeofday");
  const int result = real(now, zone);
  if (result == 0) now->tv_sec += Skew();
  return result;
}
time_t time(time_t* now) noexcept {
  timespec exact;
  clock_gettime(CLOCK_REALTIME, &exact);
  if (now != nullptr) *now = exact.tv_sec;
  return exact.tv_sec;
}

int pthread_cond_timedwait(pthread_cond_t* condition, pthread_mutex_t* mutex, const timespec* deadline) {
  static const auto real = Real<int(pthread_cond_t*, pthread_mutex_t*, const timespec*)>("pthread_cond_timedwait");
  const timespec right = Right(*deadline);
  return real(condition, mutex, &right);
}

long syscall(long number, ...) noexcept {
  static const auto real = Real<long(long, ...)>("syscall");
  va_list list;
  va_start(list, number);
  long a[6];
  for (long& argument : a) argument = va_arg(list, long);
  va_end(list);
  if (number == SYS_futex && (a[1] & FUTEX_CLOCK_REALTIME) != 0 && a[3] != 0) {
    const timespec right = Right(*reinterpret_cast<const timespec*>(a[3]));
    return real(number, a[0], a[1], a[2], &right, a[4], a[5]);
  }
  return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

}  // extern "C"
