using Menagerie;

/// <summary>What the bundle {{name}} does.</summary>
[Contract("{{name}}@1")]
public sealed class Bundle
{
    public string Greet(string name) => $"Hello, {name}";

    public long Add(long a, long b) => a + b;
}
