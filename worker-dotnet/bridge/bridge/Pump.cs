using System;
using System.Collections.Generic;
using System.Runtime.ExceptionServices;
using System.Threading;
using System.Threading.Tasks;

namespace Menagerie.Bridge
{
    /// <summary>
    /// Work for the lane's thread while that waits for a Task: an async function
    /// goes on in the thread pool after its first await, but calls to other
    /// bundles are made on the lane's thread.
    /// </summary>
    internal sealed class Pump
    {
        private sealed class Job
        {
            internal Action Work;
            internal ExceptionDispatchInfo Error;
            internal bool Done;
        }

        // How long a call waits for the lane's thread to come, and how often it
        // looks at the clock meanwhile, in milliseconds.
        private const int Patience = 2000;
        private const int Step = 100;

        private readonly object gate = new object();
        private readonly List<Job> jobs = new List<Job>();
        private bool waiting;

        /// <summary>Runs jobs until the task has completed.</summary>
        internal void Wait(Task task)
        {
            task.ContinueWith(Wake, TaskContinuationOptions.ExecuteSynchronously);
            while (true)
            {
                Job job;
                lock (gate)
                {
                    waiting = true;
                    Monitor.PulseAll(gate);
                    while (jobs.Count == 0 && !task.IsCompleted)
                        Monitor.Wait(gate);
                    if (jobs.Count == 0)
                    {
                        waiting = false;
                        return;
                    }
                    job = jobs[0];
                    jobs.RemoveAt(0);
                }
                Run(job);
            }
        }

        private void Wake(Task task)
        {
            lock (gate)
                Monitor.PulseAll(gate);
        }

        private void Run(Job job)
        {
            try
            {
                job.Work();
            }
            catch (Exception error)
            {
                job.Error = ExceptionDispatchInfo.Capture(error);
            }
            lock (gate)
            {
                job.Done = true;
                Monitor.PulseAll(gate);
            }
        }

        /// <summary>Has the lane's thread do this, and waits for it.</summary>
        /// <exception cref="InvalidOperationException">The lane's thread does not wait for a Task.</exception>
        internal T Send<T>(Func<T> work)
        {
            T result = default(T);
            Job job = new Job { Work = () => result = work() };
            lock (gate)
            {
                // The lane's thread may be on its way to `Wait`: what comes after
                // the first await can run before the function has returned its
                // Task. To queue it for longer would be a deadlock if that thread
                // waits for this very thread by other means.
                DateTime end = DateTime.UtcNow.AddMilliseconds(Patience);
                while (!waiting && DateTime.UtcNow < end)
                    Monitor.Wait(gate, Step);
                if (!waiting)
                    throw new InvalidOperationException("calls to other bundles are made on the bundle's own thread, or while that waits for a Task that a function returned");
                jobs.Add(job);
                Monitor.PulseAll(gate);
                while (!job.Done)
                    Monitor.Wait(gate);
            }
            if (job.Error != null)
                job.Error.Throw();
            return result;
        }
    }
}
