// SPDX-License-Identifier: Apache-2.0
// Hands one value from another thread to a coroutine that waits for it on its own loop.
#pragma once

#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

namespace mainstay::gateway {

// One wait at a time; a value that comes first waits for the coroutine. Put may be called from any thread.
template <typename T>
class Handover {
 public:
  void Put(T value) {
    std::function<void(T)> waiter;
    {
      std::lock_guard lock(mu_);
      if (!waiter_) {
        value_ = std::move(value);
        return;
      }
      waiter = std::exchange(waiter_, nullptr);
    }
    waiter(std::move(value));
  }

  boost::asio::awaitable<T> Take() {
    auto executor = co_await boost::asio::this_coro::executor;
    co_return co_await boost::asio::async_initiate<const boost::asio::use_awaitable_t<>&, void(T)>(
        [this, executor](auto handler) {
          auto shared = std::make_shared<decltype(handler)>(std::move(handler));
          std::function<void(T)> deliver = [executor, shared](T value) {
            boost::asio::post(executor, [shared, value = std::move(value)]() mutable { (*shared)(std::move(value)); });
          };
          std::optional<T> ready;
          {
            std::lock_guard lock(mu_);
            if (value_) {
              ready = std::exchange(value_, std::nullopt);
            } else {
              waiter_ = deliver;
            }
          }
          if (ready) deliver(*std::move(ready));
        },
        boost::asio::use_awaitable);
  }

 private:
  std::mutex mu_;
  std::optional<T> value_;
  std::function<void(T)> waiter_;
};

}  // namespace mainstay::gateway
