-- What wrk asks for, and how it says what came of it.
--
-- Arguments: METHOD SIZE PAUSE SLOTS THREADS. A PUT sends SIZE bytes to a new line of the file SLOTS each time, and stops
-- when there are no more; a line is a target, a tab, and a header that goes with it. PAUSE is how many milliseconds a
-- connection waits before a request, on average; 0 for none. THREADS is how many share the slots.

local ffi = require("ffi")
ffi.cdef [[
struct moment { long seconds; long nanoseconds; };
int clock_gettime(int clock, struct moment *moment);
]]

local MONOTONIC = 1
local threads = {}

function setup(thread)
   thread:set("number", #threads)
   threads[#threads + 1] = thread
end

-- Globals: done() asks the threads for them.
began, ended = 0, 0

local function now()
   local moment = ffi.new("struct moment")
   ffi.C.clock_gettime(MONOTONIC, moment)
   return tonumber(moment.seconds) + tonumber(moment.nanoseconds) / 1e9
end

local function read_heads(path, size, sharing)
   local heads, line_number = {}, 0
   for line in io.lines(path) do
      if line_number % sharing == number then
         local target, header = line:match("^([^\t]*)\t(.*)$")
         if header ~= "" then
            header = header .. "\r\n"
         end
         heads[#heads + 1] = "PUT " .. target .. " HTTP/1.1\r\nHost: 127.0.0.1\r\n" .. header ..
            "Content-Length: " .. size .. "\r\n\r\n"
      end
      line_number = line_number + 1
   end
   return heads
end

function init(args)
   local method, size, pause, slots, sharing = args[1], tonumber(args[2]), tonumber(args[3]), args[4], tonumber(args[5])
   if pause > 0 then
      math.randomseed(number + 1)
      function delay()
         return math.random(0, 2 * pause)
      end
   end
   if method ~= "PUT" then
      return
   end
   local heads, body, last = read_heads(slots, size, sharing), string.rep("x", size), 0
   function request()
      if last == 0 then
         began = now()
      end
      last = last + 1
      if last > #heads then
         if ended == 0 then
            ended = now()
         end
         wrk.thread:stop()
         return "OPTIONS / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
      end
      return heads[last] .. body
   end
end

-- wrk's own duration goes on when there are no more slots.
local function seconds(summary)
   local first, last = math.huge, 0
   for _, thread in ipairs(threads) do
      first, last = math.min(first, thread:get("began")), math.max(last, thread:get("ended"))
   end
   return last > 0 and last - first or summary.duration / 1e6
end

function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format(
      'result {"requests": %d, "seconds": %.6f, "p50_s": %.6f, "p99_s": %.6f, ' ..
         '"failed_connections": %d, "failed_requests": %d, "timeouts": %d}\n',
      summary.requests, seconds(summary), latency:percentile(50) / 1e6, latency:percentile(99) / 1e6,
      errors.connect + errors.read + errors.write, errors.status, errors.timeout))
end
