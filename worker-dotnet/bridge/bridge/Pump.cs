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
                // Queueing it would be a deadlock if the lane's thread waits
                // for this very thread by other means.
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
